"""Signals that hit threads while they sleep in a system call, whose handlers all have SA_RESTART.

Each victim has a real-time signal of its own.  One is sent when /proc shows its thread asleep
in the kernel, and the next only once that was handled: nobody is starved, however slow he is.
"""

from __future__ import annotations

import os
import select
import signal
import threading
from typing import Any

from ..errors import usage

__all__ = ["Disturber", "Victim"]

# Where Python's own threads sleep, waiting for each other: include/uapi/asm-generic/unistd.h,
# and arch/x86/entry/syscalls/syscall_64.tbl.
_FUTEX = {"x86_64": "202"}
_FUTEX_ELSEWHERE = "98"
# Between two looks, in seconds.
_PAUSE = 0.002


class Victim:
    """A thread, while it makes its call: from `enter` to `leave`, both called by itself."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.sent = 0
        self.handled = 0
        self._thread = 0
        self._task = 0

    def enter(self) -> None:
        """From here on signals come."""
        self._thread = threading.get_ident()
        self._task = threading.get_native_id()

    def leave(self) -> None:
        """None is sent any more, but for one on its way: the thread must outlive its Disturber."""
        self._task = 0

    def hit(self, asleep_elsewhere: str) -> None:
        """Send a signal, if the last one was handled and the thread sleeps in its call."""
        task = self._task
        if task and self.sent == self.handled and _call(task) not in ("", asleep_elsewhere):
            self.sent += 1
            signal.pthread_kill(self._thread, self.number)


class Disturber:
    """A context manager; the main thread's, which alone may install handlers."""

    def __init__(self) -> None:
        self._victims: dict[int, Victim] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="signals", daemon=True)
        self._read, self._write = os.pipe()
        self._former = -1

    def victim(self) -> Victim:
        """One more, before the Disturber is entered.  Raises AgentError."""
        number = signal.SIGRTMIN + 1 + len(self._victims)
        if number >= signal.SIGRTMAX:
            raise usage("more victims than there are signals")
        # They stay: the last signal may come late, and would kill who does not handle it.
        signal.signal(number, _handled)
        signal.siginterrupt(number, False)  # sets SA_RESTART
        self._victims[number] = Victim(number)
        return self._victims[number]

    def __enter__(self) -> Disturber:
        # What is written there is the signal's number, by the C handler in the thread that was
        # hit, while it is still in the kernel's eyes on its way back into its call.
        os.set_blocking(self._write, False)
        self._former = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._over.set()
        self._thread.join()
        signal.set_wakeup_fd(self._former)
        os.close(self._read)
        os.close(self._write)

    def _run(self) -> None:
        elsewhere = _FUTEX.get(os.uname().machine, _FUTEX_ELSEWHERE)
        while not self._over.is_set():
            for victim in self._victims.values():
                victim.hit(elsewhere)
            ready, _, _ = select.select([self._read], [], [], _PAUSE)
            if ready:
                for number in os.read(self._read, 4096):
                    if number in self._victims:  # others' signals are told, too
                        self._victims[number].handled += 1


def _handled(_number: int, _frame: Any) -> None:
    """That it came was told by the C handler; Python's runs later, in the main thread."""


def _call(task: int) -> str:
    """The number of the system call in which a thread of ours sleeps; "" while it runs."""
    try:
        with open(f"/proc/self/task/{task}/syscall", encoding="ascii") as file:
            word = file.read().partition(" ")[0].strip()
    except OSError:
        return ""
    return word if word.isdigit() else ""
