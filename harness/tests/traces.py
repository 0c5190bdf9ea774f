"""Traces recorded on sim-navi, as the collector would have left them.

`hangs`: three engines hung one after the other, a canary before and after each, two processes
with sw_sync timelines beside them; nothing lost.  `overflow`: two sw_sync storms into 64 KiB a
CPU, read every 1.5 s only.  `storm`: the first 250 pages a CPU of such storms, read in time.
"""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path
from typing import Literal

import numpy as np

__all__ = ["Name", "sample", "tiled"]

Name = Literal["hangs", "overflow", "storm"]

_DATA = Path(__file__).parent / "unit" / "data"


def sample(name: Name, folder: Path) -> Path:
    """The trace directory, unpacked below `folder`."""
    path = folder / name
    with tarfile.open(_DATA / f"trace-{name}.tar.xz") as packed:
        packed.extractall(path, filter="data")
    return path


def tiled(path: Path, times: int) -> Path:
    """The trace at `path` as if all of it had happened `times` times, beside it."""
    larger = path.with_name(f"{path.name}-{times}")
    shutil.copytree(path / "formats", larger / "formats")
    shutil.copy(path / "meta.json", larger)
    size = json.loads((path / "meta.json").read_text())["page_size"]
    files = sorted(path.glob("cpu*.raw"))
    pages = [np.fromfile(file, np.uint8).reshape(-1, size) for file in files]
    # The pages' own times, on which those of all records are based.
    stamps = [each[:, :8].copy().view("<u8") for each in pages]
    first = min(int(each.min()) for each in stamps)
    span = max(int(each.max()) for each in stamps) + 10**9 - first
    for file, each, own in zip(files, pages, stamps, strict=True):
        with (larger / file.name).open("wb") as out:
            for turn in range(times):
                each[:, :8] = (own + np.uint64(turn * span)).view(np.uint8)
                out.write(each.tobytes())
    return larger
