"""A display client: an unprivileged process that has a monitor to itself, as DRM master.

What only root may see, the CRC of what is scanned out, the agent reads beside it.
"""

from __future__ import annotations

import contextlib
import logging
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from harness.deadline import Deadline
from harness.errors import LabError, TargetError
from harness.gpu.base import debugfs
from harness.link.agent import Agent, Workload
from harness.live.client import Client

__all__ = ["Commit", "Display", "Flips", "Frame", "Output"]

log = logging.getLogger(__name__)

# One line of DRM's CRC file is 12 bytes and 11 more for each value (drm_debugfs_crc.c).
_LINE = 512
# Frames that a CRC is looked for in: a first one may be of a display that is not yet up.
_FRAMES = 8


@dataclass(frozen=True, slots=True)
class Output:
    """A connector with a monitor; `pipe` is the index of the CRTC that drives it."""

    connector: int
    pipe: int
    mode: str


@dataclass(frozen=True, slots=True)
class Frame:
    """A picture that jobs of a GPU client write: `picture` is the display's number of it,
    `buffer` that client's."""

    picture: int
    buffer: int


@dataclass(frozen=True, slots=True)
class Commit:
    """What became of a frame that was to be shown: whether it was, after how many seconds, and
    beside how many signals."""

    came: bool
    seconds: float
    signals: int = 0

    def __str__(self) -> str:
        return f"{'done' if self.came else 'not done'} after {self.seconds:.1f} s"


@dataclass(frozen=True, slots=True)
class Flips:
    """Flips one after the other: `done` had their event; with `lost` the last one had none,
    because the kernel `refused` it with that errno, or ""."""

    done: int
    lost: bool
    refused: str = ""

    def __str__(self) -> str:
        if self.refused:
            return f"{self.done} came, then one was refused with {self.refused}"
        return f"{self.done} came{', then one did not' if self.lost else ''}"


class Display:
    """One process with the primary node open; a context manager."""

    def __init__(
        self, workload: Workload, agent: Agent, card: Mapping[str, Any], limit_s: float
    ) -> None:
        """`limit_s` bounds every step that has no time of its own, in seconds."""
        self._workload = workload
        self._agent = agent
        self._card = card
        self._limit_s = limit_s
        self._stopped = False

    def outputs(self) -> list[Output]:
        """Every connected monitor that has a mode, with the one it prefers."""
        return [
            Output(o["connector"], o["pipe"], o["modes"][0]["name"])
            for o in self._call("outputs")["outputs"]
        ]

    def show(self, output: Output) -> None:
        """Set its mode and show a frame that is always the same."""
        self._call("show", connector=output.connector)

    def active(self) -> bool:
        """Whether the kernel says that the shown output still has its mode."""
        return bool(self._call("state")["active"])

    def flips(self, seconds: float, patience_s: float) -> Flips:
        """Flip away from the frame and back for about `seconds`; an event that does not come
        within `patience_s` ends it."""
        reply = self._workload.call(
            "flips",
            Deadline(1.2 * (seconds + 2 * patience_s) + self._limit_s),
            for_ns=int(seconds * 1e9),
            patience_ns=int(patience_s * 1e9),
        )
        return Flips(int(reply["flips"]), bool(reply["lost"]), reply["refused"])

    def blink(self, how: Literal["dpms", "modeset"], seconds: float, patience_s: float) -> int:
        """Switch the shown output off and on again and again, for about `seconds`; how often.  A
        single step that takes longer than `patience_s` raises LabError."""
        deadline = Deadline(1.2 * (seconds + patience_s) + self._limit_s)
        reply = self._workload.call("blink", deadline, how=how, for_ns=int(seconds * 1e9))
        return int(reply["times"])

    def share(self, client: Client) -> Frame:
        """Another frame for the shown output, for jobs of `client` to write."""
        picture = self._call("share", to=client.inbox())["picture"]
        return Frame(int(picture), client.adopt())

    def commit(
        self,
        frame: Frame,
        how: Literal["modeset", "flip"],
        patience_s: float,
        *,
        disturbed: bool = False,
    ) -> Commit:
        """Show `frame` instead: by a modeset, which waits within its call for the jobs that
        write it, or by a flip, whose event comes when they are done.  A call that takes
        longer than `patience_s`, and some, raises LabError.  Signals hit a `disturbed` modeset;
        TargetError says with which errno it ended, if any."""
        reply = self._workload.call(
            "commit",
            Deadline(1.2 * patience_s + self._limit_s),
            picture=frame.picture,
            how=how,
            patience_ns=int(patience_s * 1e9),
            disturbed=disturbed,
        )
        return Commit(bool(reply["came"]), reply["elapsed_ns"] / 1e9, reply["signals"])

    def vblank(self, patience_s: float) -> bool:
        """Whether the event of a vblank came within `patience_s`."""
        deadline = Deadline(1.2 * patience_s + self._limit_s)
        return bool(
            self._workload.call("vblank", deadline, patience_ns=int(patience_s * 1e9))["came"]
        )

    def asleep(self) -> str:
        """The kernel's function in which its process sleeps (proc(5), wchan); "" while it runs."""
        path = f"/proc/{self._workload.ready['pid']}/wchan"
        found = b64decode(self._agent.call("read", self._short(), path=path)["data"]).decode()
        return "" if found == "0" else found

    def crcs(self, output: Output, count: int, seconds: float) -> list[str] | None:
        """CRCs of the next frames scanned out, as DRM prints their values: `count`, or fewer
        when `seconds` were not enough.  None where the driver offers none.

        The first few after a mode was set may be of a display that is not yet up
        (Documentation of drm_debugfs_crc.c leaves the source "auto" to the driver).
        """
        path = f"{debugfs(self._card)}/crtc-{output.pipe}/crc"
        try:
            data = b64encode(b"auto").decode()
            self._agent.call("write", self._short(), path=f"{path}/control", data=data)
        except TargetError as error:
            log.info("no CRC: %s", error)
            return None
        # Each read gives one line, and nothing until there is one.
        argv = ["dd", f"if={path}/data", f"bs={_LINE}", f"count={count}", "status=none"]
        done = self._agent.call(
            "run", Deadline(seconds + self._limit_s), argv=argv, timeout=seconds
        )
        # A NUL ends each line, after its line feed.
        lines = done["stdout"].replace("\0", "").splitlines()
        return [line.partition(" ")[2] for line in lines if " " in line]

    def crcs_until(self, output: Output, known: str, seconds: float) -> list[str]:
        """CRCs of frames scanned out until `known` is one of them, or `seconds` are over, or none
        comes any more."""
        deadline, crcs = Deadline(seconds), self.crcs(output, _FRAMES, seconds) or []
        while crcs and known not in crcs and not deadline.expired():
            crcs = self.crcs(output, _FRAMES, seconds) or []
        return crcs

    def stop(self) -> None:
        """Take the mode down and end the process.  Idempotent."""
        if self._stopped:
            return
        self._stopped = True
        # A commit that hangs would keep the process in its exit, where nobody sees why.
        with contextlib.suppress(TargetError, LabError):
            self._call("off")
        self._workload.stop()

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _short(self) -> Deadline:
        return Deadline(self._limit_s)

    def _call(self, op: str, **args: Any) -> dict[str, Any]:
        return self._workload.call(op, self._short(), **args)
