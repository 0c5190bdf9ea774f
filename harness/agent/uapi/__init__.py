"""The kernel's ioctl ABIs as ctypes, one module a header.

A test compiles C against the headers and compares every size, offset and
number found in these modules.
"""

from __future__ import annotations

__all__: list[str] = []
