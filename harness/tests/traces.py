"""Traces recorded on sim-navi, as the collector would have left them.

`hangs`: three engines hung one after the other, a canary before and after each, two processes
with sw_sync timelines beside them; nothing lost.  `overflow`: two sw_sync storms into 64 KiB a
CPU, read every 1.5 s only.
"""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Literal

__all__ = ["sample"]

_DATA = Path(__file__).parent / "unit" / "data"


def sample(name: Literal["hangs", "overflow"], folder: Path) -> Path:
    """The trace directory, unpacked below `folder`."""
    path = folder / name
    with tarfile.open(_DATA / f"trace-{name}.tar.xz") as packed:
        packed.extractall(path, filter="data")
    return path
