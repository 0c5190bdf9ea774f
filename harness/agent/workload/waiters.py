"""All ways to wait for one job, at the same time: each in a thread of its own, and once more in
another that signals hit.  What each was told, and when, is for others to judge.
"""

from __future__ import annotations

import contextlib
import errno
import threading
import time
from typing import Any, Callable, NamedTuple

from ..arguments import Arguments
from ..errors import usage
from . import COMM
from .disturb import Disturber, Victim

__all__ = ["Behind", "Wait", "Waiters", "run"]

# What threads get to come back in after their time is over, in seconds.
_GRACE = 10.0


class Wait(NamedTuple):
    """One way to wait.

    `call`, given when to give up on CLOCK_MONOTONIC in ns, asks the kernel once: 1 ready, 0 not
    in time, or the negative errno.  `timed`: it does give up then.  `alone`: a second one would
    wait for a lock that the first holds.  `restarts`: SA_RESTART lets it go on; signal(7) has
    those that come back with EINTR all the same.
    """

    name: str
    call: Callable[[int], int]
    timed: bool = True
    alone: bool = False
    restarts: bool = True


class _Waiter(threading.Thread):
    """One wait, which asks again after EAGAIN, and after EINTR where that is the rule."""

    def __init__(
        self, wait: Wait, timeout_ns: int, victim: Victim | None, begin: threading.Event
    ) -> None:
        # From Python 3.14 on a thread's name is its comm, too, by which traces are filtered.
        super().__init__(name=f"{COMM}{wait.name}", daemon=True)
        self.wait = wait
        self.victim = victim
        self.done = threading.Event()
        self.over = threading.Event()
        self.result: int | None = None
        self.began = self.ended = 0
        self.again = self.interrupted = 0
        self._timeout_ns = timeout_ns
        self._begin = begin

    def run(self) -> None:
        self._begin.wait()
        self.began = time.monotonic_ns()
        until = self.began + self._timeout_ns
        if self.victim is not None:
            self.victim.enter()
        while True:
            result = self.wait.call(until)
            if result == -errno.EAGAIN:
                self.again += 1
            elif result == -errno.EINTR and not self.wait.restarts:
                self.interrupted += 1
            else:
                break
        self.ended = time.monotonic_ns()
        if self.victim is not None:
            self.victim.leave()
        self.result = result
        self.done.set()
        self.over.wait()

    def told(self, since: int) -> dict[str, Any]:
        """As Waiters says; `since` is when the job was submitted."""
        done = self.result is not None
        return {
            "name": self.wait.name,
            "timed": self.wait.timed,
            "restarts": self.wait.restarts,
            "disturbed": self.victim is not None,
            "result": self.result,
            "signals": self.victim.sent if self.victim else 0,
            "handled": self.victim.handled if self.victim else 0,
            "again": self.again,
            "interrupted": self.interrupted,
            "began_ns": self.began - since,
            "until_ns": self.began + self._timeout_ns - since,
            "ended_ns": self.ended - since if done else None,
        }


def run(waits: list[Wait], timeout_ns: int, since: int) -> list[dict[str, Any]]:
    """Wait in all of these ways, each for at most `timeout_ns`; see Waiters for the answers.

    A wait that takes no timeout and does not end is left behind.  For the main thread.
    """
    disturber, begin = Disturber(), threading.Event()
    waiters = [_Waiter(wait, timeout_ns, None, begin) for wait in waits if not wait.alone]
    waiters += [_Waiter(wait, timeout_ns, disturber.victim(), begin) for wait in waits]
    with disturber:
        # All at once: who waits may hold what it takes to start a thread (mmap_lock, say).
        for waiter in waiters:
            waiter.start()
        end = time.monotonic() + timeout_ns / 1e9 + _GRACE
        begin.set()
        for waiter in waiters:
            waiter.done.wait(max(0.0, end - time.monotonic()))
    told = [waiter.told(since) for waiter in waiters]
    for waiter in waiters:
        waiter.over.set()
    return told


class Waiters:
    """The operation of a GPU workload; `hang` is its operation of that name, `find` takes a job
    from the arguments, `ways` gives its ways to wait, whose means go with the ExitStack."""

    def __init__(
        self,
        hang: Callable[[Arguments], dict[str, Any]],
        find: Callable[[Arguments], Any],
        ways: Callable[[Any, contextlib.ExitStack], list[Wait]],
    ) -> None:
        self._hang = hang
        self._find = find
        self._ways = ways

    def perform(self, arguments: Arguments) -> dict[str, Any]:
        """{hang: its arguments, timeout_ns, names = null} -> {"hang": its reply, "waiters":
        [{"name", "timed", "restarts", "disturbed", "result", "signals", "handled", "again",
        "interrupted", "began_ns", "until_ns", "ended_ns"}]}.

        Hang, and at once wait for that job in every way the kernel has, or in those that are
        named: undisturbed, and `disturbed` by signals.  `result` is 1 ready, 0 not in time, or
        what the kernel said, negative; null while it still waits.  Of the `signals` sent
        `handled` came through; after EAGAIN it asked `again`, as DRM wants, and after EINTR
        (`interrupted`) only where SA_RESTART is no help (`restarts`).  Times count from the
        submission; at `until_ns` its own was over.
        """
        hang = Arguments("hang", arguments.mapping("hang"))
        timeout = arguments.integer("timeout_ns")
        names = arguments.texts("names", [])
        arguments.done()
        if timeout < 0:
            raise usage("waiters: timeout_ns is not negative")
        hung = self._hang(hang)
        submitted = self._find(Arguments("waiters", {"job": hung["job"]}))
        with contextlib.ExitStack() as means:
            waits = self._ways(submitted, means)
            unknown = set(names) - {wait.name for wait in waits}
            if unknown:
                known = ", ".join(wait.name for wait in waits)
                raise usage(f"no wait {', '.join(sorted(unknown))}", cure=f"one of: {known}")
            chosen = [wait for wait in waits if not names or wait.name in names]
            told = run(chosen, timeout, submitted.at)
        return {"hang": hung, "waiters": told}


class Behind:
    """The operation of a GPU workload that waits for a shared buffer; `chosen` takes its handle
    from the arguments, `ways` gives the ways to wait for it, whose means go with the ExitStack."""

    def __init__(
        self,
        chosen: Callable[[Arguments], int | None],
        ways: Callable[[int, contextlib.ExitStack], list[Wait]],
    ) -> None:
        self._chosen = chosen
        self._ways = ways

    def perform(self, arguments: Arguments) -> dict[str, Any]:
        """{writes: an adopted buffer, timeout_ns} -> {"waiters"}, as Waiters says.

        Wait for whoever uses the buffer, in every way that has a timeout.  Times count from the
        beginning of this.
        """
        handle = self._chosen(arguments)
        timeout = arguments.integer("timeout_ns")
        arguments.done()
        if handle is None or timeout < 0:
            raise usage("behind: writes is the number of a buffer, timeout_ns not negative")
        with contextlib.ExitStack() as means:
            waits = [wait for wait in self._ways(handle, means) if wait.timed]
            return {"waiters": run(waits, timeout, time.monotonic_ns())}
