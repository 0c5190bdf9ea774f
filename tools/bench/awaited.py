"""Awaited: how much of its time a session's own thread waits for its target and the way there.

What is left is what the harness itself costs: of a test's time that is no part, in the agent's
answers, in a mark's way back and in the trace's.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

from harness.evidence.boot import Boot
from harness.evidence.trace import TraceFiles
from harness.link.agent import Agent

__all__ = ["awaited"]


@contextlib.contextmanager
def awaited() -> Iterator[Callable[[], float]]:
    """What tells the seconds that this process's main thread has waited so far."""
    spent = 0.0

    def timed(real: Callable[..., Any]) -> Callable[..., Any]:
        def waits(*args: Any, **named: Any) -> Any:
            nonlocal spent
            began = time.perf_counter()
            try:
                return real(*args, **named)
            finally:
                if threading.current_thread() is threading.main_thread():
                    spent += time.perf_counter() - began

        return waits

    with contextlib.ExitStack() as patched:
        for owner, name in ((Agent, "call"), (Boot, "wait_kmsg"), (TraceFiles, "wait")):
            patched.enter_context(patch.object(owner, name, timed(getattr(owner, name))))
        yield lambda: spent
