"""Where the beam of a pipe is: frames, lines, vertical blanks, as times of the chip's clock.

Nothing runs in the background: whoever looks says what time it is, and is told
which vertical blanks have begun since.  A beam also waits a little before a
vertical blank while the driver is busy with its pipe; see QUIET_NS.
"""

from __future__ import annotations

from tools.gen3.timing import Timing

__all__ = ["HOLD_NS", "QUIET_NS", "Beam"]

QUIET_NS = 2_000_000
"""i915 keeps clear of a vertical blank for 100 us, 250 us with lockdep (VBLANK_EVASION_TIME_US),
which on hardware is hundreds of register accesses and here is ten.  So a vertical blank begins
no sooner than this after an access to the pipe's registers: the frame gets longer, instead of
the update late."""
HOLD_NS = 6_000_000
"""The most by which one frame gets longer that way; the driver waits 8 ms (intel_vblank_evade)."""
SECOND = 1_000_000_000


class Beam:
    """The beam of one pipe.  All times are ns of the clock that the callers share."""

    def __init__(self, stretch: float = 1.0) -> None:
        """`stretch` makes every frame that many times as long as programmed."""
        self._stretch = stretch
        self._timing: Timing | None = None
        self._hz = 0
        # When frame 0 began; moved by holding and freezing.
        self._origin = 0
        # Number of the frame whose vertical blank comes next.
        self._next = 0
        self._touched = -HOLD_NS
        self._frozen: int | None = None
        # What the counters show while the beam is off.
        self._rest = (0, 0)
        self._rest_line = 0

    @property
    def timing(self) -> Timing | None:
        """What the beam runs with; None while it is off."""
        return self._timing

    def start(self, timing: Timing, now: int) -> None:
        """Switch on, at the first visible pixel of the next frame."""
        frame = self._rest[0] + 1 if self._rest != (0, 0) else 0
        self._timing = timing
        self._hz = max(1, int(timing.clock_hz / self._stretch))
        self._origin = now - self._ns(frame * timing.frame)
        self._next = frame
        if self._frozen is not None:
            self._frozen = now

    def stop(self, now: int) -> None:
        """Switch off; the counters stand still."""
        self._rest, self._rest_line = self.position(now), self.line(now)
        self._timing = None

    def forget(self) -> None:
        """Off, and all counters zero: a reset."""
        self._timing = None
        self._rest, self._rest_line = (0, 0), 0

    def freeze(self, frozen: bool, now: int) -> None:
        """Hold the beam where it is, or let it go on from there."""
        if frozen and self._frozen is None:
            self._frozen = now
        elif not frozen and self._frozen is not None:
            self._origin += now - self._frozen
            self._frozen = None

    def touch(self, now: int) -> None:
        """The driver is busy with the pipe's registers."""
        self._touched = now

    def next_vblank(self) -> int | None:
        """When the next vertical blank begins, unless the driver holds it up further."""
        if self._timing is None or self._frozen is not None:
            return None
        regular = self._regular(self._timing)
        return max(regular, min(self._touched + QUIET_NS, regular + HOLD_NS))

    def settle(self, now: int) -> int:
        """How many vertical blanks have begun since this was last asked."""
        begin = self.next_vblank()
        if begin is None or self._timing is None or now < begin:
            return 0
        self._origin += begin - self._regular(self._timing)
        past = self._pixels(now) - self._next * self._timing.frame - self._timing.vblank
        begun = past // self._timing.frame + 1
        self._next += begun
        return begun

    def position(self, now: int) -> tuple[int, int]:
        """Number of the frame, and of the pixel within it."""
        timing = self._timing
        if timing is None:
            return self._rest
        pixels = self._pixels(now if self._frozen is None else self._frozen)
        # Held up, it stays on the last pixel before the vertical blank.
        pixels = min(pixels, self._next * timing.frame + timing.vblank - 1)
        return divmod(pixels, timing.frame)

    def line(self, now: int) -> int:
        """The scanline counter: one behind the visible line, and counting at its hsync."""
        timing = self._timing
        if timing is None:
            return self._rest_line
        pixel = self.position(now)[1]
        return ((pixel + timing.line_step) // timing.htotal - 1) % timing.vtotal

    def _regular(self, timing: Timing) -> int:
        return self._origin + self._ns(self._next * timing.frame + timing.vblank)

    def _ns(self, pixels: int) -> int:
        """How long they take, rounded up: the time at which the beam is there."""
        return -(-pixels * SECOND // self._hz)

    def _pixels(self, now: int) -> int:
        return (now - self._origin) * self._hz // SECOND
