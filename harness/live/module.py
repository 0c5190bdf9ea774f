"""A kernel module on a target: what it takes, and the time during which it is out.

What holds a driver is let go first, and held again afterwards: a console on its framebuffer
(drivers/video/fbdev/core/fbcon.c takes a reference for as long as it is bound).
"""

from __future__ import annotations

import contextlib
from base64 import b64decode, b64encode
from collections.abc import Iterator, Sequence
from typing import Any

from harness.deadline import Deadline
from harness.errors import HarnessError, TargetError
from harness.link.agent import Agent

__all__ = ["Module"]

_CONSOLES = "/sys/class/vtconsole"
# Between two looks at whether udev, which opens every new node, has let go.
_PAUSE_S = 0.2


class Module:
    """One module, by its name."""

    def __init__(self, agent: Agent, name: str, limit_s: float) -> None:
        """`limit_s` bounds every step that has no time of its own, in seconds."""
        self.name = name
        self._agent = agent
        self._limit_s = limit_s

    def parameters(self) -> str:
        """What `modinfo` says of its parameters, a line each; "" where there is no such module."""
        return self._run(["modinfo", "-F", "parm", self.name], self._limit_s)[1]

    def exists(self) -> bool:
        """Whether the running kernel has it as a module, loaded or not."""
        status, said = self._run(["modinfo", "-F", "filename", self.name], self._limit_s)
        return status == 0 and said.strip().startswith("/")

    def value(self, parameter: str) -> str:
        """The value of a parameter; "" while the module is not loaded."""
        try:
            path = f"/sys/module/{self.name}/parameters/{parameter}"
            return b64decode(self._call("read", path=path)["data"]).decode().strip()
        except TargetError:
            return ""

    def loaded(self) -> bool:
        """Whether it is there, and not built in."""
        return self._number("refcnt") is not None

    def load(self, arguments: Sequence[str], seconds: float) -> None:
        """Load it with parameters, which may take `seconds`.  Raises TargetError."""
        argv = ["modprobe", self.name, *arguments]
        status, said = self._run(argv, seconds)
        if status != 0:
            why = said.strip() or f"no end within {seconds:g} s"
            raise TargetError(f"{' '.join(argv)}: {why}", cure="see the kernel log")

    @contextlib.contextmanager
    def out(self) -> Iterator[None]:
        """Take it out while the block runs; what was loaded before is loaded again.

        Raises TargetError, with what uses it, where it cannot be taken out.
        """
        was = self.loaded()
        consoles = self._let_go() if was else []
        try:
            self.unload()
            yield
        finally:
            with contextlib.suppress(HarnessError):
                self.unload()
            if was and not self.loaded():
                self.load([], 2 * self._limit_s)
                self._run(["udevadm", "settle"], self._limit_s)
            for path in consoles:
                with contextlib.suppress(TargetError):  # without its framebuffer it is gone
                    self._write(path, "1")

    def _let_go(self) -> list[str]:
        """Unbind the consoles on a framebuffer; their switches."""
        names = [f"{_CONSOLES}/{name}" for name in self._call("listdir", path=_CONSOLES)["names"]]
        bound = [
            f"{path}/bind"
            for path in names
            if "frame buffer" in self._text(f"{path}/name") and self._text(f"{path}/bind") == "1"
        ]
        for path in bound:
            self._write(path, "0")
        return bound

    def unload(self) -> None:
        """Take it out, if it is there.  Raises TargetError, with what uses it."""
        deadline = Deadline(self._limit_s)
        while self.loaded():
            status, said = self._run(["rmmod", self.name], self._limit_s)
            if status == 0:
                return
            if not deadline.pause(_PAUSE_S):
                holders = self._call("listdir", path=f"/sys/module/{self.name}/holders")["names"]
                users = [f"{u['comm']} ({u['node']})" for u in self._call("clients")["clients"]]
                raise TargetError(
                    f"{self.name} cannot be taken out: {said.strip()}; it is used"
                    f" {self._number('refcnt')} times, by {', '.join([*holders, *users]) or '?'}",
                    cure="end what uses it; a sound driver may, without being in that list",
                )

    def _number(self, name: str) -> int | None:
        try:
            return int(self._text(f"/sys/module/{self.name}/{name}"))
        except TargetError:
            return None

    def _text(self, path: str) -> str:
        return b64decode(self._call("read", path=path)["data"]).decode().strip()

    def _write(self, path: str, text: str) -> None:
        self._call("write", path=path, data=b64encode(text.encode()).decode())

    def _run(self, argv: list[str], seconds: float) -> tuple[int | None, str]:
        done = self._agent.call("run", Deadline(seconds + 10), argv=argv, timeout=seconds)
        return done["status"], done["stdout"] + done["stderr"]

    def _call(self, op: str, **args: Any) -> dict[str, Any]:
        return self._agent.call(op, Deadline(self._limit_s), **args)
