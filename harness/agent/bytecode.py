"""Bytecode beside the sources of a zipapp, which zipimport loads instead of compiling them.

Under emulation compiling takes longer than all the rest of a start; what another Python's
version wrote is passed over.
"""

from __future__ import annotations

import io
import marshal
import struct
import zipfile
from importlib.util import MAGIC_NUMBER

__all__ = ["add", "of"]

# A hash-based .pyc that is not checked against its source (PEP 552); no hash then.
_PYC = MAGIC_NUMBER + struct.pack("<I8x", 1)
# Without back references, which tell objects that others share from those that nobody does: what
# is made of the same source is the same, whatever else this process has loaded.
_MARSHAL = 2


def of(source: bytes, name: str) -> bytes:
    """The .pyc of `source`, which is the member `name`."""
    code = compile(source, f"agent.pyz/{name}", "exec", dont_inherit=True)
    return _PYC + marshal.dumps(code, _MARSHAL)


def add(archive: bytes) -> bytes:
    """The zipapp `archive` with this Python's bytecode."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(made, "w") as new:
        for name in old.namelist():
            if name.endswith(".py"):
                source = old.read(name)
                new.writestr(name, source)  # for tracebacks
                new.writestr(f"{name}c", of(source, name))
    return made.getvalue()
