"""The chips that are modelled, and what tells them apart.

Each line names the place in i915 or intel-gtt that depends on it.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["VARIANTS", "Variant"]

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True)
class Variant:
    """One gen3 chip."""

    name: str
    device: int
    """PCI device id, of INTEL_G33_IDS or INTEL_I945G_IDS (include/drm/intel/i915_pciids.h)."""
    gtt_bytes: int
    """Size of BAR3, four bytes for each page (intel_gtt_total_entries)."""
    pgtbl_ctl: int
    """PGETBL_CTL at power-on: bits 3:1 are the size on G33 (I965_PGETBL_SIZE_MASK)."""
    wide_ptes: bool
    """Whether bits 7:4 of a PTE are bits 35:32 of the address (i965_write_entry)."""
    physical_status_page: bool
    """Whether HWS_PGA is a physical address, not one of the GTT (HWS_NEEDS_PHYSICAL)."""
    physical_cursor: bool
    """Whether a cursor's base is a physical address, too (cursor_needs_physical)."""
    reset_clears_itself: bool
    """Whether GDRST bit 0 falls when the reset is done (g33_do_reset), or bit 1 rises
    while it is asserted (i915_do_reset)."""
    aperture_bytes: int = 256 * MIB
    """Size of BAR2."""
    revision: int = 2


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant(
            "g33",
            device=0x29C2,
            # The smallest that there is, and an aperture of half of what it maps: each PTE is
            # an access that i915's probe makes, and what must not go through the aperture, as
            # the ring, finds its place above it.
            gtt_bytes=128 * KIB,
            pgtbl_ctl=2 << 1,  # I965_PGETBL_SIZE_128KB
            wide_ptes=True,
            physical_status_page=False,
            physical_cursor=False,
            reset_clears_itself=True,
            aperture_bytes=64 * MIB,
        ),
        Variant(
            "945g",
            device=0x2772,
            gtt_bytes=256 * KIB,
            pgtbl_ctl=0,
            wide_ptes=False,
            physical_status_page=True,
            physical_cursor=True,
            reset_clears_itself=False,
        ),
    )
}
