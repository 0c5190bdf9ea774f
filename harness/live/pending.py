"""A pending commit: a display shows a frame that a job of another process is still writing.

Made, watched and let go of here, so that a testcase says what must come of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

from harness.deadline import Deadline
from harness.gpu.base import Engine
from harness.live.client import Client, Fence
from harness.live.display import Commit, Display

__all__ = ["How", "Pending"]

How = Literal["modeset", "flip"]
# Between two looks, in seconds.
_LOOK_S = 0.5
# A recovery that has not ended its job so long after the hang was noticed is looked at, and again
# later: what it stands still behind may change.
_STILL_S = (1.0, 8.0, 15.0)


class Pending:
    """A commit on its way to the screen, and the job of `guilty` that it waits for; a context
    manager, at whose end the job is let go, so that nobody stays."""

    def __init__(
        self,
        display: Display,
        guilty: Client,
        engine: Engine,
        how: How,
        patience_s: float,
        *,
        disturbed: bool = False,
    ) -> None:
        """Hang a job on `engine` that writes a frame, and show that by `how`, beside signals if
        `disturbed`; `patience_s` is the longest wait for it."""
        self._display, self._guilty = display, guilty
        frame = display.share(guilty)
        self._idle = display.asleep()
        self._job = guilty.hang(engine, writes=frame.buffer)
        self._began = time.monotonic()
        self._pool = ThreadPoolExecutor(1)
        self._commit = self._pool.submit(
            display.commit, frame, how, patience_s, disturbed=disturbed
        )

    def begun(self, deadline: Deadline) -> bool:
        """Wait until the display's process sleeps in the kernel elsewhere than before it was to
        commit: its call was made, and did not come back at once."""
        while self._display.asleep() in ("", self._idle) and not self.done():
            if not deadline.pause(_LOOK_S / 10):
                return False
        return not self.done()

    def done(self) -> bool:
        """Whether the commit is; or failed, which `result` tells."""
        return self._commit.done()

    def fence(self, deadline: Deadline) -> Fence:
        """What became of the job's fence by then."""
        return self._guilty.wait(self._job, deadline)

    def watch(
        self, deadline: Deadline, hung: Callable[[], bool], look: Callable[[str], object]
    ) -> Fence:
        """The same; once the driver noticed that it is `hung`, and the fence does not signal,
        `look` is called now and then."""
        noticed, looks = None, list(_STILL_S)
        fence = self.fence(deadline.capped(_LOOK_S))
        while not fence.signaled and not deadline.expired():
            if noticed is None and hung():
                noticed = time.monotonic()
            if noticed is not None and looks and time.monotonic() - noticed > looks[0]:
                look(f"standing-still-{looks.pop(0):.0f}s")
            fence = self.fence(deadline.capped(_LOOK_S))
        return fence

    def release(self) -> float:
        """Let the job go; for how many seconds it was held, at most."""
        self._guilty.release(self._job)
        return time.monotonic() - self._began

    def result(self) -> Commit:
        """What became of the commit, once something did.  Raises as Display.commit does."""
        return self._commit.result()

    def __enter__(self) -> Pending:
        return self

    def __exit__(self, *exc: object) -> None:
        with self._pool:
            self.release()
