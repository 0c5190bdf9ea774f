"""The framebuffer console of a card: is there one, and how to keep it busy.

It is drawn under console_lock (drivers/video/fbdev/core/fbcon.c), which some drivers take in
recovery, too (drm_fb_helper_set_suspend_unlocked()).
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from harness.deadline import Deadline
from harness.errors import TargetError
from harness.link.agent import Agent

__all__ = ["FramebufferConsole"]

_CONSOLES = "/sys/class/vtconsole"
# Lines onto the foreground terminal, which fbcon draws in the writer's own time, and into the
# kernel log, whose console tty0 may be as well: opened anew, for each file has a rate limit.
_FLOOD = """\
import sys, time
end = time.monotonic() + float(sys.argv[2])
lines = 0
while not lines or time.monotonic() < end:
    for path in ("/dev/tty0", "/dev/kmsg"):
        with open(path, "wb", buffering=0) as out:
            out.write(b"lab: line %d of a busy console\\n" % lines)
    lines += 1
    time.sleep(1 / float(sys.argv[1]))
print(lines)
"""


class FramebufferConsole:
    """fbcon on the card under test."""

    def __init__(self, agent: Agent, card: Mapping[str, Any], limit_s: float) -> None:
        """`limit_s` bounds every step that has no time of its own, in seconds."""
        self._agent = agent
        self._card = card
        self._limit_s = limit_s

    def refusal(self) -> str:
        """Why there is no console on this card, or "" where there is."""
        if not self._names(f"/sys/class/drm/{self._card['name']}/device/graphics"):
            return (
                "this card has no framebuffer device: fbdev emulation is off "
                "(drm_kms_helper.fbdev_emulation=0), not built, or not in this driver"
            )
        return "" if self._switch() else "this kernel has no console on framebuffers"

    @contextmanager
    def bound(self) -> Iterator[None]:
        """The console is drawn through the card; undone with the test where it was not before."""
        path = self._switch()
        if self._text(path) != "1":
            self._call("knob", path=path, value="1")
        yield

    def flood(self, rate: float, seconds: float) -> int:
        """Print `rate` lines a second or fewer, for about `seconds` and one line at least; how
        many there were, 0 where that did not end: the console stood still."""
        argv, patience = ["python3", "-c", _FLOOD, str(rate), str(seconds)], seconds + self._limit_s
        done = self._agent.call("run", Deadline(patience + 10), argv=argv, timeout=patience)
        if done["timed_out"]:
            return 0
        if done["status"] != 0:
            raise TargetError(
                f"nothing can be printed onto the console: {done['stderr'].strip() or done}",
                where="/dev/tty0",
                cure="see the kernel log for who holds console_lock",
            )
        return int(done["stdout"])

    def _switch(self) -> str:
        """The file that binds consoles to framebuffers; "" where there is none."""
        for name in self._names(_CONSOLES):
            if "frame buffer" in self._text(f"{_CONSOLES}/{name}/name"):
                return f"{_CONSOLES}/{name}/bind"
        return ""

    def _names(self, path: str) -> list[str]:
        try:
            return list(self._call("listdir", path=path)["names"])
        except TargetError:
            return []

    def _text(self, path: str) -> str:
        return b64decode(self._call("read", path=path)["data"]).decode().strip()

    def _call(self, op: str, **args: Any) -> dict[str, Any]:
        return self._agent.call(op, Deadline(self._limit_s), **args)
