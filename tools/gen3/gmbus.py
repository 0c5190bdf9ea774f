"""GMBUS, the chip's I2C controller, with the monitor's EDID on its VGA pins.

A transfer is started by GMBUS1 and moved four bytes at a time through GMBUS3,
as do_gmbus_xfer() of i915's intel_gmbus.c does; it is done as soon as it is
asked for.  The GPIO lines behind the same pins float high, and nobody answers
who bit-bangs there.
"""

from __future__ import annotations

from collections.abc import Callable

from tools.gen3.edid import ADDRESS, EDID
from tools.gen3.faults import Faults
from tools.gen3.registers import Kind, Register, Registers

__all__ = ["PIN_VGA", "Gmbus"]

GMBUS0, GMBUS1, GMBUS2, GMBUS3, GMBUS4, GMBUS5 = 0x5100, 0x5104, 0x5108, 0x510C, 0x5110, 0x5120
PIN_VGA, PIN_MASK = 2, 7

# GMBUS1, the command.
CLEAR, READY = 1 << 31, 1 << 30
CYCLE_WAIT, CYCLE_INDEX, CYCLE_STOP = 1 << 25, 1 << 26, 1 << 27
COUNT_SHIFT, COUNT_MASK = 16, 0x1FF
INDEX_SHIFT, ADDRESS_SHIFT = 8, 1
IS_READ = 1
# GMBUS2, the status.
WAIT_PHASE, HW_READY, NAK, ACTIVE = 1 << 14, 1 << 11, 1 << 10, 1 << 9
# GMBUS5: an index of two bytes, which no EEPROM of 128 bytes has.
TWO_BYTES = 1 << 31

# GPIOA to GPIOH; each line with its own pair of direction and value, applied through masks.
GPIO, GPIOS = 0x5010, 8
DIR_MASK, DIR_OUT, VALUE_MASK, VALUE_OUT, VALUE_IN = 1, 2, 4, 8, 16
DATA_SHIFT = 8
PULLUPS_OFF = 1 << 5 | 1 << 13


class Gmbus:
    """The controller and its one device, a DDC EEPROM at address 0x50 of the VGA pins."""

    def __init__(self, registers: Registers, faults: Faults, plugged: Callable[[], bool]) -> None:
        """`plugged` says whether a monitor is there to answer."""
        self._registers = registers
        self._faults = faults
        self._plugged = plugged
        self._status = 0
        self._reading = b""
        # Bytes of a write that the device still takes.
        self._writing = 0
        self._pointer = 0
        self.transfers = 0
        """How many the monitor has answered."""
        registers.declare(
            [
                Register(GMBUS0, "GMBUS0"),
                Register(GMBUS1, "GMBUS1"),
                Register(GMBUS2, "GMBUS2", kind=Kind.COMPUTED),
                Register(GMBUS3, "GMBUS3", kind=Kind.COMPUTED),
                Register(GMBUS4, "GMBUS4"),
                Register(GMBUS5, "GMBUS5"),
            ]
        )
        registers.on_write(GMBUS0, self._select)
        registers.on_write(GMBUS1, self._command)
        registers.on_read(GMBUS2, lambda: self._status)
        registers.on_read(GMBUS3, self._read_data)
        registers.on_write(GMBUS3, self._write_data)
        for number in range(GPIOS):
            line = _Line(registers, GPIO + 4 * number, "ABCDEFGH"[number])
            registers.on_read(line.offset, line.read)
            registers.on_write(line.offset, line.write)

    def reset(self) -> None:
        """A GPU reset: no transfer under way."""
        self._idle(0)

    def _idle(self, status: int) -> None:
        self._status, self._reading, self._writing = status, b"", 0

    def _select(self, old: int, new: int) -> None:
        if not new & PIN_MASK:
            self._idle(0)

    def _command(self, old: int, new: int) -> None:
        if new & CLEAR:
            self._idle(0)
            return
        if not new & READY:
            return
        if not new & (CYCLE_WAIT | CYCLE_INDEX):
            # A stop, or nothing at all: the bus is free.
            self._idle(0)
            return
        if not self._answers(new >> ADDRESS_SHIFT & 0x7F):
            # The controller has ended the transfer by itself.
            self._idle(NAK)
            return
        self.transfers += 1
        count = new >> COUNT_SHIFT & COUNT_MASK
        if new & CYCLE_INDEX:
            self._pointer = new >> INDEX_SHIFT & 0xFF
        elif self._registers[GMBUS5] & TWO_BYTES:
            self._pointer = self._registers[GMBUS5] & 0xFF
        if new & IS_READ:
            self._reading, self._writing = self._fetch(count), 0
        else:
            self._reading, self._writing = b"", count
            # Up to four bytes lie in the data register already.
            self._accept(self._registers[GMBUS3])
        self._progress()

    def _answers(self, address: int) -> bool:
        return (
            self._registers[GMBUS0] & PIN_MASK == PIN_VGA
            and address == ADDRESS
            and self._plugged()
            and self._faults.edid != "none"
        )

    def _fetch(self, count: int) -> bytes:
        memory = EDID if self._faults.edid == "ok" else bytes(byte ^ 0xA5 for byte in EDID)
        start = self._pointer
        self._pointer = (start + count) % 256
        # An EEPROM of 256 bytes whose upper half is empty.
        memory = memory.ljust(256, b"\xff")
        return bytes(memory[(start + n) % 256] for n in range(count))

    def _accept(self, data: int) -> None:
        taken = min(4, self._writing)
        if taken:
            # The EEPROM takes the first byte as its pointer, and is write-protected.
            self._pointer = data & 0xFF
            self._writing -= taken

    def _progress(self) -> None:
        """Ready for the next four bytes, or waiting for the next command."""
        left = self._reading or self._writing
        self._status = ACTIVE | HW_READY | (0 if left else WAIT_PHASE)

    def _read_data(self) -> int:
        if not self._reading:
            return self._registers[GMBUS3]
        word, self._reading = self._reading[:4], self._reading[4:]
        self._registers[GMBUS3] = int.from_bytes(word, "little")
        self._progress()
        return self._registers[GMBUS3]

    def _write_data(self, old: int, new: int) -> None:
        if self._writing:
            self._writing -= min(4, self._writing)
            self._progress()


class _Line:
    """A clock and a data line, open drain with pull-ups."""

    def __init__(self, registers: Registers, offset: int, letter: str) -> None:
        self.offset = offset
        self._registers = registers
        registers.declare([Register(offset, f"GPIO{letter}", kind=Kind.COMPUTED)])

    def read(self) -> int:
        """Direction and value driven, and the level of each line: low only if driven low."""
        stored = self._registers[self.offset]
        for shift in (0, DATA_SHIFT):
            low = stored >> shift & (DIR_OUT | VALUE_OUT) == DIR_OUT
            stored |= 0 if low else VALUE_IN << shift
        return stored

    def write(self, old: int, new: int) -> None:
        """A mask bit lets the bit above it through; the pull-up bits are plain."""
        kept = old & (DIR_OUT | VALUE_OUT) * (1 | 1 << DATA_SHIFT)
        for shift in (0, DATA_SHIFT):
            for mask, bit in ((DIR_MASK, DIR_OUT), (VALUE_MASK, VALUE_OUT)):
                if new >> shift & mask:
                    kept = kept & ~(bit << shift) | new & bit << shift
        self._registers[self.offset] = kept | new & PULLUPS_OFF
