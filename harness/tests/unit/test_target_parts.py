"""What a target has or has not: a framebuffer console, a sleep it wakes from, a udev that tells."""

from __future__ import annotations

import json
import threading
from base64 import b64encode
from collections.abc import Callable
from typing import Any, cast

import pytest

from harness.errors import TargetError
from harness.link.agent import Agent
from harness.live import sleep
from harness.live.fbcon import FramebufferConsole
from harness.live.sleep import Sleep
from harness.live.udev import Udev

GRAPHICS = "/sys/class/drm/card0/device/graphics"
CONSOLES = "/sys/class/vtconsole"
CARD = "0000:00:02.0"


class Target:
    """An agent of a target with these files and folders alone; `said` are its uevents."""

    heard = float("inf")  # it is never silent

    def __init__(self, **files: str | list[str]) -> None:
        self.files = {name: found for name, found in files.items()}
        self.asked: list[str] = []
        self.said: dict[str, list[dict[str, Any]]] = {"kernel": [], "udev": []}

    def call(self, op: str, _deadline: Any, **args: Any) -> dict[str, Any]:
        self.asked.append(op)
        if op == "run":
            return {"status": 1, "stdout": "", "stderr": "rtcwake: write error"}
        found = self.files.get(args["path"])
        if found is None:
            raise TargetError("cannot be read", where=args["path"], cure="")
        if isinstance(found, list):
            return {"names": found}
        return {"data": b64encode(found.encode()).decode(), "truncated": False}

    def collect(self, _what: str, sink: Callable[[bytes], Any], _deadline: Any, source: str) -> Any:
        for event in self.said[source]:
            sink(json.dumps(event).encode() + b"\n")
        sink(b'{"torn')
        return self

    def stop(self, _deadline: Any) -> None:
        """Of a collection."""


def target(**files: str | list[str]) -> tuple[Target, Agent]:
    made = Target(**files)
    return made, cast(Agent, made)


def test_a_console_needs_a_framebuffer_of_the_card_and_a_kernel_that_draws_on_it() -> None:
    def refusal(**files: str | list[str]) -> str:
        return FramebufferConsole(target(**files)[1], {"name": "card0"}, 1.0).refusal()

    assert "no framebuffer device" in refusal()
    assert "no console on framebuffers" in refusal(**{GRAPHICS: ["fb0"], CONSOLES: []})
    consoles: dict[str, str | list[str]] = {
        GRAPHICS: ["fb0"],
        CONSOLES: ["vtcon0", "vtcon1"],
        f"{CONSOLES}/vtcon0/name": "(S) dummy device\n",
        f"{CONSOLES}/vtcon1/name": "(M) frame buffer device\n",
        f"{CONSOLES}/vtcon1/bind": "1\n",
    }
    assert refusal(**consoles) == ""
    made, agent = target(**consoles)
    with FramebufferConsole(agent, {"name": "card0"}, 1.0).bound():
        assert "knob" not in made.asked, "it was bound before"


def asleep(agent: Agent, press: Callable[[], object] = list) -> Sleep:
    return Sleep(agent, 1.0, 1.0, press)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "CONFIG_SUSPEND is not set"),
        ({"/sys/power/state": "mem disk\n"}, "only: mem disk"),
        ({"/sys/power/state": "freeze mem\n"}, "nothing would wake"),
    ],
)
def test_a_target_that_cannot_sleep_says_why(files: dict[str, str], said: str) -> None:
    assert said in asleep(target(**files)[1]).refusal()


def test_a_sleep_that_the_kernel_refuses_is_the_targets_fault() -> None:
    files = {"/sys/power/state": "freeze\n", "/sys/class/rtc/rtc0/wakealarm": "\n"}
    made = asleep(target(**files)[1])
    assert made.refusal() == ""
    with pytest.raises(TargetError, match="rtcwake: write error"):
        made.sleep()


class Sleeper:
    """An agent whose target sleeps until a key is pressed, the first time too early."""

    heard = 0.0  # long ago: no heartbeat comes

    def __init__(self) -> None:
        self.knobs: dict[str, str] = {}
        self.slept: list[int] = []
        self.key = threading.Event()

    def call(self, op: str, _deadline: Any, **args: Any) -> dict[str, Any]:
        if op == "knob" and "ttyS" not in args["path"]:
            raise TargetError("a terminal that nothing wakes by", where=args["path"], cure="")
        if op == "knob":
            self.knobs[args["path"]] = args["value"]
        elif op == "run":
            assert self.key.wait(60), "no key was pressed"
            self.key.clear()
            self.slept.append(1 - min(len(self.slept), 1))
            return {"status": self.slept[-1], "stdout": "", "stderr": "write error"}
        return {"data": b64encode(b"tty0 ttyS0\n").decode()}


def test_a_key_wakes_who_slept_and_one_that_came_too_early_is_no_refusal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sleep, "_SILENT_S", 0.01)
    made = Sleeper()
    sleeper = asleep(cast(Agent, made), made.key.set)
    sleeper.prepare()
    sleeper.sleep()
    assert made.slept == [1, 0]
    assert made.knobs["/sys/class/tty/ttyS0/power/wakeup"] == "enabled"


def test_what_udev_tells_of_the_card_is_kept_in_its_order() -> None:
    def event(device: str, **properties: str) -> dict[str, Any]:
        return {"devpath": f"/devices/pci0000:00/{device}/drm/card0", "properties": properties}

    made, agent = target()
    made.said["kernel"] = [
        event(CARD, ERROR="1"),
        event("0000:00:03.0", ERROR="1"),
        event(CARD, ACTION="change"),
        event(CARD, RESET="1", ERROR="0"),
    ]
    made.said["udev"] = made.said["kernel"][:1]
    with Udev(agent, CARD, 1.0) as listening:
        assert listening.wait(1.0)
    assert listening.told(listening.kernel) == [("ERROR", "1"), ("ERROR", "0"), ("RESET", "1")]
    assert listening.told(listening.udev) == [("ERROR", "1")]
    with Udev(target()[1], CARD, 1.0) as silent:
        assert not silent.wait(0.0)
