"""Running the tools that set-up consists of: output to a log, last lines in the error.

Output goes through a pipe that we read: when set-up is killed, the tool's next
line ends it too.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from harness.errors import LabError

__all__ = ["run"]

_LAST_LINES = 15
# In a parallel build the line that tells why stands far above the last ones.
_TELLING = re.compile(r"error:|\*\*\* |fatal|No space left", re.IGNORECASE)
_TELLING_LINES = 5


def run(
    argv: Sequence[str | Path],
    *,
    log: Path,
    lock: int,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    on_line: Callable[[str], object] = lambda _: None,
    cure: str = "mend what it says and run it again; it continues where it stopped",
) -> None:
    """Run `argv`, its output appended to `log` and shown line by line to `on_line`.

    The child inherits `lock` (see Cache.lock).  Raises LabError with the last lines
    and the log's path when it fails or cannot be started.
    """
    words = [str(word) for word in argv]
    telling: list[str] = []
    last: deque[str] = deque(maxlen=_LAST_LINES)
    with open(log, "ab", buffering=0) as file:
        file.write(f"$ {' '.join(words)}\n".encode())
        try:
            child = subprocess.Popen(
                words,
                cwd=cwd,
                env={**os.environ, "LC_ALL": "C", **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=[lock],
            )
        except OSError as error:
            raise LabError(f"cannot start {words[0]}: {error.strerror}", cure=cure) from error
        assert child.stdout is not None
        try:
            for raw in child.stdout:
                file.write(raw)
                line = raw.decode(errors="replace").rstrip()
                if len(last) == _LAST_LINES and _TELLING.search(last[0]):
                    telling.append(last[0])
                last.append(line)
                on_line(line)
            status = child.wait()
        except BaseException:
            child.terminate()
            child.wait()
            raise
        finally:
            child.stdout.close()
    if status != 0:
        shown = "\n    ".join([*telling[:_TELLING_LINES], *(["..."] if telling else []), *last])
        raise LabError(
            f"{Path(words[0]).name} failed with status {status}; its last lines:\n    {shown}",
            where=str(log),
            cure=cure,
        )
