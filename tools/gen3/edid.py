"""The monitor's EDID: 128 bytes that a driver believes.

EDID 1.3 of a made-up analog monitor that prefers 1024x768 at 60 Hz and can do
640x480 and 800x600 (VESA E-EDID standard, release A).
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ADDRESS", "EDID", "Detailed", "checksum"]

ADDRESS = 0x50
"""Where a monitor answers on its DDC bus."""
HEADER = bytes((0x00, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x00))


@dataclass(frozen=True)
class Detailed:
    """A detailed timing: active, front porch, sync and back porch of both directions."""

    clock_khz: int
    horizontal: tuple[int, int, int, int]
    vertical: tuple[int, int, int, int]
    size_mm: tuple[int, int]
    positive: tuple[bool, bool]

    def descriptor(self) -> bytes:
        """Its 18 bytes."""
        active, front, sync, back = self.horizontal
        blank = front + sync + back
        lines, v_front, v_sync, v_back = self.vertical
        v_blank = v_front + v_sync + v_back
        width, height = self.size_mm
        # Separate syncs (bits 4:3), then the polarity of each.
        flags = 0x18 | self.positive[1] << 2 | self.positive[0] << 1
        return (self.clock_khz // 10).to_bytes(2, "little") + bytes(
            (
                active & 0xFF,
                blank & 0xFF,
                active >> 8 << 4 | blank >> 8,
                lines & 0xFF,
                v_blank & 0xFF,
                lines >> 8 << 4 | v_blank >> 8,
                front & 0xFF,
                sync & 0xFF,
                (v_front & 0xF) << 4 | v_sync & 0xF,
                front >> 8 << 6 | sync >> 8 << 4 | v_front >> 4 << 2 | v_sync >> 4,
                width & 0xFF,
                height & 0xFF,
                width >> 8 << 4 | height >> 8,
                0,
                0,
                flags,
            )
        )


# DMT 10h of the VESA DMT standard: 1024x768 at 60 Hz.
PREFERRED = Detailed(65_000, (1024, 24, 136, 160), (768, 3, 6, 29), (304, 228), (False, False))


def checksum(block: bytes) -> int:
    """The byte that makes 128 of them sum to zero."""
    return -sum(block) & 0xFF


def _text(tag: int, text: str) -> bytes:
    """A descriptor of up to 13 characters; a shorter text ends with a line feed."""
    line = (text + "\n")[:13] if len(text) < 13 else text[:13]
    return bytes((0, 0, 0, tag, 0)) + line.encode("ascii").ljust(13)


def _limits(vertical: tuple[int, int], horizontal: tuple[int, int], clock_mhz: int) -> bytes:
    """Range limits in Hz, kHz and MHz, without a formula for further modes."""
    body = bytes((*vertical, *horizontal, clock_mhz // 10, 0x00, 0x0A))
    return bytes((0, 0, 0, 0xFD, 0)) + body.ljust(13, b" ")


def _manufacturer(letters: str) -> bytes:
    """Three letters in five bits each."""
    first, second, third = (ord(letter) - ord("A") + 1 for letter in letters)
    return (first << 10 | second << 5 | third).to_bytes(2, "big")


def _block() -> bytes:
    block = (
        HEADER
        + _manufacturer("TDR")
        # Product, serial number, week and year of manufacture, EDID 1.3.
        + (3).to_bytes(2, "little")
        + (1).to_bytes(4, "little")
        + bytes((1, 2024 - 1990, 1, 3))
        # Analog, 0.7 V, separate syncs; size in cm; gamma 2.2; RGB colour, and the first detailed
        # timing is the preferred one.
        + bytes((0x08, 30, 23, 120, 0x0A))
        # sRGB's primaries and white point.
        + bytes((0xEE, 0x91, 0xA3, 0x54, 0x4C, 0x99, 0x26, 0x0F, 0x50, 0x54))
        # Established timings: 640x480, 800x600 and 1024x768 at 60 Hz.
        + bytes((0x21, 0x08, 0x00))
        # No standard timings.
        + bytes((0x01, 0x01)) * 8
        + PREFERRED.descriptor()
        + _limits((50, 76), (30, 61), 80)
        + _text(0xFC, "tdrlab gen3")
        + _text(0xFF, "0000000001")
        # No extension.
        + bytes(1)
    )
    return block + bytes((checksum(block),))


EDID = _block()
"""The block, with its checksum."""
