"""A client that needs no GPU: an unprivileged process with fences and buffers of the kernel's own.

sw_sync's timelines signal when it likes; vgem's buffers are shared with whom it likes.  Where a
kernel lacks one of them the client says so, and a testcase skips.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from harness.deadline import Deadline
from harness.errors import TargetError
from harness.link.agent import Agent, Workload
from harness.live.client import Client
from harness.live.module import Module

__all__ = ["Attached", "Generic", "Info", "start"]

_SW_SYNC = ("/sys/kernel/debug/sync", "sw_sync")
_VGEM = "vgem"


@dataclass(frozen=True, slots=True)
class Info:
    """What a sync file says of itself: `status` is 1 signalled, 0 pending, or the negative errno
    it signalled with; of each of its fences the driver, status, and when it signalled in ns."""

    status: int
    drivers: tuple[str, ...]
    statuses: tuple[int, ...]
    timestamps: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Attached:
    """A fence of vgem's: asked for at `began`, in seconds of CLOCK_MONOTONIC; not there, with the
    errno's name."""

    number: int
    errname: str
    began: float


class Generic:
    """One process; a context manager.  Fences and buffers are known by its numbers of them."""

    def __init__(self, workload: Workload, limit_s: float, sw_sync: bool, vgem: bool) -> None:
        """`limit_s` bounds every step that has no time of its own, in seconds."""
        self._workload = workload
        self._limit_s = limit_s
        self.no_sw_sync = "" if sw_sync else "this kernel has no sw_sync (CONFIG_SW_SYNC)"
        self.no_vgem = "" if vgem else "this kernel has no vgem (CONFIG_DRM_VGEM)"

    # -- fences ------------------------------------------------------------------

    def fence(self, value: int) -> int:
        """A fence that signals when this process's timeline has reached `value`."""
        return int(self._call("timeline.fence", value=value)["fence"])

    def advance(self, by: int) -> None:
        """Let the timeline go on."""
        self._call("timeline.advance", by=by)

    def close_timeline(self) -> None:
        """Close it; what is pending there ends."""
        self._call("timeline.close")

    def merge(self, first: int, second: int) -> int:
        """A fence that signals when both have."""
        return int(self._call("fence.merge", first=first, second=second)["fence"])

    def info(self, fence: int) -> Info:
        """What is known of it."""
        found = self._call("fence.info", fence=fence)
        parts = found["fences"]
        return Info(
            found["status"],
            tuple(part["driver"] for part in parts),
            tuple(part["status"] for part in parts),
            tuple(part["timestamp_ns"] for part in parts),
        )

    def wait(self, fence: int, deadline: Deadline) -> bool:
        """Whether it signals by then."""
        return bool(self._patient("fence.wait", deadline, fence=fence)["signaled"])

    # -- buffers -----------------------------------------------------------------

    def buffer(self) -> int:
        """A new one of vgem's."""
        return int(self._call("buffer")["buffer"])

    def share(self, buffer: int, client: Client) -> int:
        """Give `client` a buffer; its number there."""
        self._call("share", buffer=buffer, to=client.inbox())
        return client.adopt()

    def borrow(self, client: Client) -> tuple[int, int]:
        """A new buffer of `client`'s: its number here, and there."""
        theirs = client.lend(str(self._call("inbox")["address"]))
        return int(self._call("adopt")["buffer"]), theirs

    def attach(self, buffer: int, *, write: bool) -> Attached:
        """A fence of vgem's on it, as of one who reads or writes it."""
        found = self._call("buffer.attach", buffer=buffer, write=write)
        return Attached(found["attached"], found["errname"], found["began_ns"] / 1e9)

    def signal(self, attached: Attached) -> str:
        """Signal such a fence; "" or the errno's name."""
        return str(self._call("buffer.signal", attached=attached.number)["errname"])

    def exported(self, buffer: int, *, write: bool) -> int:
        """A fence: all that who reads, or writes, the buffer must wait for."""
        return int(self._call("buffer.export", buffer=buffer, write=write)["fence"])

    def imported(self, buffer: int, fence: int, *, write: bool) -> None:
        """Let others wait for `fence` as for one who reads, or writes, the buffer."""
        self._call("buffer.import", buffer=buffer, fence=fence, write=write)

    def ready(self, buffer: int, deadline: Deadline, *, write: bool) -> bool:
        """Whether poll(2) says by then that the buffer can be read, or written."""
        return bool(self._patient("buffer.wait", deadline, buffer=buffer, write=write)["ready"])

    # -- syncobjs ----------------------------------------------------------------

    def syncobj(self) -> int:
        """A new one of the GPU's, without a fence.  Raises TargetError where it has none."""
        return int(self._call("syncobj")["syncobj"])

    def insert(self, syncobj: int, point: int, fence: int) -> None:
        """`point` of it is reached when `fence` has signalled, and all points before it are."""
        self._call("syncobj.insert", syncobj=syncobj, point=point, fence=fence)

    def extract(self, syncobj: int, point: int) -> int:
        """A fence that signals when that is reached."""
        return int(self._call("syncobj.extract", syncobj=syncobj, point=point)["fence"])

    def reached(self, syncobj: int) -> int:
        """The last point that is."""
        return int(self._call("syncobj.query", syncobj=syncobj)["point"])

    def reach(self, syncobj: int, point: int) -> None:
        """The CPU has done what is to be done for `point`."""
        self._call("syncobj.signal", syncobj=syncobj, point=point)

    def wait_point(self, syncobj: int, point: int, deadline: Deadline, *, unborn: bool) -> str:
        """Wait until it is reached: "" or the errno's name; `unborn`: though it has no fence."""
        asked = {"syncobj": syncobj, "point": point, "unborn": unborn}
        return str(self._patient("syncobj.wait", deadline, **asked)["errname"])

    # -- memory ------------------------------------------------------------------

    def churn(self, size: int, deadline: Deadline, *, endless: bool) -> int:
        """Read `size` bytes through the page cache, where they stay; with `endless` again and
        again, until `settle` is called from elsewhere.  How many bytes that were."""
        return int(self._workload.call("churn", deadline, bytes=size, endless=endless)["read"])

    def settle(self) -> None:
        """End `churn`, or the next one."""
        self._call("churn.stop")

    def stop(self) -> None:
        """End the process.  Idempotent."""
        self._workload.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _call(self, op: str, **args: Any) -> dict[str, Any]:
        return self._workload.call(op, Deadline(self._limit_s), **args)

    def _patient(self, op: str, deadline: Deadline, **args: Any) -> dict[str, Any]:
        answer_by = Deadline(deadline.left() * 1.1 + self._limit_s)
        return self._workload.call(op, answer_by, timeout_ns=int(deadline.left() * 1e9), **args)


def start(agent: Agent, limit_s: float, render: str) -> Generic:
    """A new process, with vgem loaded if there is one, which then stays; `render` is the node of
    a GPU, for its syncobjs.  Raises as Agent does."""
    folder, name = _SW_SYNC
    try:
        sw_sync = name in agent.call("listdir", Deadline(limit_s), path=folder)["names"]
    except TargetError:
        sw_sync = False
    node = _vgem(agent, limit_s)
    workload = agent.workload(
        "generic",
        render,
        Deadline(limit_s),
        passing=[f"{folder}/{name}"] if sw_sync else [],
        primary=node,
    )
    return Generic(workload, limit_s, sw_sync, bool(node))


def _vgem(agent: Agent, limit_s: float) -> str:
    """Its primary node; "" where the kernel has none."""
    found = _nodes(agent, limit_s)
    if not found:
        try:
            Module(agent, _VGEM, limit_s).load([], limit_s)
        except TargetError:
            return ""
        agent.call("run", Deadline(limit_s), argv=["udevadm", "settle"], timeout=limit_s / 2)
        found = _nodes(agent, limit_s)
    return found[0] if found else ""


def _nodes(agent: Agent, limit_s: float) -> Sequence[str]:
    cards = agent.call("cards", Deadline(limit_s))["cards"]
    return [str(card["primary"]) for card in cards if card["driver"] == _VGEM]
