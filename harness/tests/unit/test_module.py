"""Taking a module out and putting it back, against a target that is played."""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Any, cast

import pytest

from harness.deadline import Deadline
from harness.errors import TargetError
from harness.link.agent import Agent
from harness.live.module import Module

CONSOLE = "/sys/class/vtconsole/vtcon1"


class Played:
    """A target with one module, `mod`, which a console on its framebuffer may hold."""

    def __init__(self, *, loaded: bool = True, console: str = "0", stuck: bool = False) -> None:
        self.loaded = loaded
        self.stuck = stuck
        self.console = console
        self.did: list[str] = []

    def call(self, op: str, deadline: Deadline, **args: Any) -> dict[str, Any]:
        return cast("dict[str, Any]", getattr(self, op)(**args))

    def listdir(self, path: str) -> dict[str, Any]:
        return {"names": {"/sys/class/vtconsole": ["vtcon1"]}.get(path, ["snd"])}

    def clients(self) -> dict[str, Any]:
        return {"clients": [{"comm": "Xorg", "node": "/dev/dri/card0"}]}

    def read(self, path: str) -> dict[str, Any]:
        files = {f"{CONSOLE}/name": "(M) frame buffer device", f"{CONSOLE}/bind": self.console}
        if self.loaded:
            files["/sys/module/mod/refcnt"] = "1" if self.stuck else "0"
            files["/sys/module/mod/parameters/x"] = "-25"
        if path not in files:
            raise TargetError("no such file", where=path)
        return {"data": b64encode(f"{files[path]}\n".encode()).decode()}

    def write(self, path: str, data: str) -> dict[str, Any]:
        assert path == f"{CONSOLE}/bind"
        self.console = b64decode(data).decode()
        self.did.append(f"bind {self.console}")
        return {}

    def run(self, argv: list[str], timeout: float) -> dict[str, Any]:
        self.did.append(" ".join(argv))
        if argv[0] == "rmmod":
            if self.stuck or self.console == "1":
                return {"status": 1, "stdout": "", "stderr": "Module mod is in use\n"}
            self.loaded = False
        elif argv[0] == "modprobe":
            if "bad=1" in argv:
                return {"status": 1, "stdout": "", "stderr": "Invalid argument\n"}
            self.loaded = True
        return {"status": 0, "stdout": "", "stderr": ""}


def module(target: Played) -> Module:
    return Module(cast(Agent, target), "mod", 0.5)


def test_module_is_out_while_the_block_runs_and_back_afterwards() -> None:
    target = Played()
    it = module(target)
    with it.out():
        assert not target.loaded
        assert it.value("x") == ""
        it.load(["x=1"], 5.0)
        assert it.value("x") == "-25"
    assert target.did == [
        "rmmod mod", "modprobe mod x=1", "rmmod mod", "modprobe mod", "udevadm settle",
    ]  # fmt: skip


def test_console_lets_go_and_is_bound_again() -> None:
    target = Played(console="1")
    with module(target).out():
        assert target.console == "0"
    assert (target.console, target.loaded) == ("1", True)


def test_module_that_was_not_loaded_stays_out() -> None:
    target = Played(loaded=False)
    with module(target).out():
        module(target).load([], 5.0)
    assert not target.loaded


def test_block_that_fails_leaves_the_module_loaded() -> None:
    target = Played()

    def provoke() -> None:
        with module(target).out():
            module(target).load(["bad=1"], 5.0)

    with pytest.raises(TargetError, match="modprobe mod bad=1: Invalid argument"):
        provoke()
    assert target.loaded


def test_module_in_use_is_told_with_its_users() -> None:
    target = Played(stuck=True)
    with pytest.raises(TargetError) as caught, module(target).out():
        pass
    assert "used 1 times, by snd, Xorg (/dev/dri/card0)" in caught.value.what
    assert "sound" in caught.value.cure
    assert target.loaded
