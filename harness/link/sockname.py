"""A name for a socket file that fits a socket address, however deep the file lies."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["short"]


@contextlib.contextmanager
def short(path: Path) -> Iterator[str]:
    """`path` by a name of less than 108 bytes (sun_path, unix(7)), while the block runs.

    Raises OSError where its directory is not there.
    """
    parent = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{parent}/{path.name}"
    finally:
        os.close(parent)
