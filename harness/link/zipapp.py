"""The agent as one file: built the same, byte for byte, from the same sources.

So its hash names it: a target that has a file of that name needs no other.
"""

from __future__ import annotations

import functools
import hashlib
import io
import zipfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from harness.agent import bytecode
from harness.errors import LabError

__all__ = ["build"]

_MAIN = b"import sys\nfrom agent.__main__ import main\nsys.exit(main())\n"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest a zip can say
_READABLE = 0o100644 << 16
# pyudev's bindings to graphical toolkits; each imports a toolkit no target has.
_UNWANTED = {"glib.py", "_qt_base.py", "pyqt5.py", "pyside.py", "pyside6.py", "wx.py"}


def build(extra: Mapping[str, bytes] | None = None) -> tuple[bytes, str]:
    """The zipapp and its SHA-256 in hex.  Run it with `python3 FILE serve`.

    It holds this package's `agent` at top level, and pyudev (pure Python over
    libudev) as installed here, with this Python's bytecode: on an emulated target that
    has the same, compiling would take longer than all else.  `extra` adds files or replaces
    `__main__.py`, by their path in the zip.  Raises LabError when pyudev is not installed.
    """
    return _build(extra) if extra else _plain()


@functools.cache
def _plain() -> tuple[bytes, str]:
    return _build({})


def _build(extra: Mapping[str, bytes]) -> tuple[bytes, str]:
    files = {"__main__.py": _MAIN}
    files |= _sources("agent", Path(__file__).parents[1] / "agent")
    spec = find_spec("pyudev")
    if spec is None or spec.origin is None:
        raise LabError("pyudev is not installed here", cure="run tools/lab, which sets it up")
    files |= _sources("pyudev", Path(spec.origin).parent)
    files |= extra
    for name in [name for name in files if name.endswith(".py")]:
        files[f"{name}c"] = bytecode.of(files[name], name)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in sorted(files):
            info = zipfile.ZipInfo(name, _EPOCH)
            info.external_attr = _READABLE
            info.create_system = 3  # Unix, also when built elsewhere
            archive.writestr(info, files[name], zipfile.ZIP_DEFLATED)
    data = buffer.getvalue()
    return data, hashlib.sha256(data).hexdigest()


def _sources(package: str, root: Path) -> dict[str, bytes]:
    return {
        f"{package}/{path.relative_to(root).as_posix()}": path.read_bytes()
        for path in root.rglob("*.py")
        if path.name not in _UNWANTED
    }
