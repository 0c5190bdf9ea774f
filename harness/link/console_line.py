"""A console that is kept open: what ends is opened again, and both are told.

An adapter is unplugged, a console server restarts, a BMC drops the session: the
reader comes back by itself, and no test ever waits for it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from harness.errors import HarnessError
from harness.link.console import Console
from harness.link.console_source import Source

__all__ = ["Line"]

# Seconds between tries: a replugged adapter loses little, a dead server is not pestered.
_FIRST_S, _LAST_S = 0.25, 5.0
# Remarks kept until somebody asks; a line that flaps shall not fill our memory.
_MOST = 20


class Line:
    """Keeps `console` attached to what `open_source` gives."""

    def __init__(self, console: Console, open_source: Callable[[], Source]) -> None:
        """Nothing is opened yet.  `open_source` raises HarnessError or OSError where it cannot."""
        self.console = console
        self._open = open_source
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._told: list[str] = []
        self._away = ""
        self._tried = threading.Event()
        self._keeper = threading.Thread(
            target=self._keep, name=f"console-line-{console.name}", daemon=True
        )

    def open(self) -> None:
        """Begin; returns when the first try is over, however it went (see `remarks`)."""
        self._keeper.start()
        self._tried.wait()

    def close(self) -> None:
        """Close the console for good.  Idempotent."""
        self._closing.set()
        if self._keeper.is_alive():
            self._keeper.join()
        self.console.close()

    def remarks(self) -> list[str]:
        """What happened to it since last asked; that it is away is told each time."""
        with self._lock:
            told, self._told = self._told, []
            if self._away and not told:
                told = [f"the console is away: {self._away}"]
            return told

    def _keep(self) -> None:
        pause, since = _FIRST_S, 0.0
        while not self._closing.is_set():
            try:
                source = self._open()
            except (HarnessError, OSError) as error:
                why = error.what if isinstance(error, HarnessError) else str(error)
                if why != self._away:
                    self._tell(f"the console cannot be opened: {why}", why)
                self._tried.set()
                self._closing.wait(pause)
                pause = min(pause * 2, _LAST_S)
                continue
            self.console.attach(source)
            if since:
                self._tell(f"the console is back after {time.monotonic() - since:.1f} s", "")
            else:
                self._tell("", "")
            self._tried.set()
            opened = time.monotonic()
            while not (self._closing.is_set() or self.console.wait_ended(0.2)):
                pass
            if self._closing.is_set():
                return
            since = time.monotonic()
            # One that ends as soon as it is open is as good as none.
            pause = _FIRST_S if since - opened > _LAST_S else min(pause * 2, _LAST_S)
            self._tell("the console ended: unplugged, or its server gone", "it ended")
            self._closing.wait(pause)

    def _tell(self, remark: str, away: str) -> None:
        with self._lock:
            self._away = away
            if remark:
                self._told = [*self._told, remark][-_MOST:]
