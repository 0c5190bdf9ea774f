"""Intel's graphics chips: which generation a PCI id is, and what its engines can do.

No ioctl tells the generation.  Source: include/drm/intel/i915_pciids.h of Linux 6.12; ids
that are not here are of generation 8 or later, whose batches are all alike.
"""

from __future__ import annotations

__all__ = ["LATEST", "can_store", "generation"]

LATEST = 8
"""What is said of every generation from the eighth on."""

_HASWELL = [
    high << 8 | tier << 4 | low
    for high in (0x04, 0x0A, 0x0C, 0x0D)
    for tier in (0, 1, 2)
    for low in (0x2, 0x6, 0xA, 0xB, 0xE)
]
_GENERATIONS: dict[int, tuple[int, ...]] = {
    2: (0x3577, 0x2562, 0x3582, 0x358E, 0x2572),
    3: (
        *(0x2582, 0x258A, 0x2592),  # 915
        *(0x2772, 0x27A2, 0x27AE),  # 945
        *(0x29B2, 0x29C2, 0x29D2),  # G33
        *(0xA001, 0xA011),  # Pineview
    ),
    4: (
        *(0x2972, 0x2982, 0x2992, 0x29A2),  # 965, Broadwater
        *(0x2A02, 0x2A12),  # 965GM, Crestline
        *(0x2A42, 0x2E02, 0x2E12, 0x2E22, 0x2E32, 0x2E42, 0x2E92),  # G45
    ),
    5: (0x0042, 0x0046),
    6: (0x0102, 0x010A, 0x0112, 0x0122, 0x0106, 0x0116, 0x0126),
    7: (
        *(0x0156, 0x0166, 0x0152, 0x015A, 0x0162, 0x016A),  # Ivy Bridge
        *(0x0F30, 0x0F31, 0x0F32, 0x0F33),  # Bay Trail
        *_HASWELL,
    ),
}
_BY_ID = {device: number for number, devices in _GENERATIONS.items() for device in devices}

# 915 cannot; a 965G's store does not arrive; G45 and Ironlake want a secure batch, which only a
# privileged master may submit (lib/igt_gt.c of IGT, gem_class_can_store_dword).
_NO_STORE = frozenset(
    {0x2582, 0x258A, 0x2592, 0x2972, 0x2982, 0x2992, 0x29A2, *_GENERATIONS[4][6:], *_GENERATIONS[5]}
)


def generation(device: int) -> int:
    """2 to 7, or LATEST."""
    return _BY_ID.get(device, LATEST)


def can_store(device: int, engine: str) -> bool:
    """Whether an unprivileged batch on `engine` (rcs, bcs, ...) may write a dword to memory.

    Generation 2 would want physical addresses; the video ring of 6 dies of it.
    """
    number = generation(device)
    return number > 2 and device not in _NO_STORE and not (number == 6 and engine == "vcs")
