"""A virtual target's ramoops: memory that outlives a reset, with the kernel's last words in it.

Kernel command line only (Documentation/admin-guide/ramoops.rst); a box names its own.
"""

from __future__ import annotations

__all__ = ["words"]

_MIB = 1 << 20
# Far enough below the end of memory, where firmware keeps its tables.
_BELOW_TOP = 32 * _MIB
_SIZE = 1 * _MIB
_RECORD = 128 << 10
_CONSOLE = 256 << 10
# q35 maps at most so much memory below 4 GiB (hw/i386/pc_q35.c).
_LOW = 2048 * _MIB


def words(memory_mib: int) -> str:
    """What the kernel of a machine with so much memory is told."""
    base = min(memory_mib * _MIB, _LOW) - _BELOW_TOP
    # "$": reserved (Documentation/admin-guide/kernel-parameters.txt, memmap=).
    return (
        f"memmap={_SIZE >> 10}K${base:#x} ramoops.mem_address={base:#x} ramoops.mem_size={_SIZE:#x}"
        f" ramoops.record_size={_RECORD:#x} ramoops.console_size={_CONSOLE:#x} ramoops.ecc=1"
        f" pstore.kmsg_bytes={_RECORD >> 1}"
    )
