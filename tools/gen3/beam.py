"""Where the beam of a pipe is: frames, lines, vertical blanks, as times of the chip's clock.

Nothing runs in the background: whoever looks says what time it is, and is told
which vertical blanks have begun since.  A vertical blank waits a little while
the driver is in the middle of an update; see LOOK_NS.
"""

from __future__ import annotations

from tools.gen3.timing import Timing

__all__ = ["LOOK_NS", "UPDATE_NS", "WAIT_NS", "Beam"]

# i915 reads the frame counter, writes planes, and reads the counter again; it calls a vertical
# blank in between an "Atomic update failure".  It keeps clear of one for 100 us, or 250 us with
# lockdep (VBLANK_EVASION_TIME_US), which on hardware is hundreds of register accesses, and here
# ten at best.  So a vertical blank waits for the end of an update, and the frame gets longer.
LOOK_NS = 8_000_000
"""How long after a look at the frame counter, which may begin an update, or end one: it takes
three reads."""
UPDATE_NS = 16_000_000
"""How long after a write of an update that has not yet looked at the counter again."""
WAIT_NS = 40_000_000
"""The longest that one vertical blank waits; the kernel gives up on one after 100 ms."""
EVASION_NS = 1_000_000
"""Who reads the scanline this close to a vertical blank may be about to sleep until it comes
(intel_vblank_evade): that one must not wait."""
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
        self._looked: int | None = None
        self._wrote: int | None = None
        self._ended: int | None = None
        # When it was last seen not to have begun: it cannot have begun before.
        self._waited = 0
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
        self._looked = self._wrote = self._ended = None
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

    def looked(self, now: int) -> None:
        """The driver reads the frame counter, which begins or ends an update."""
        if self._wrote is not None:
            self._ended = now
        self._looked, self._wrote = now, None

    def wrote(self, now: int) -> None:
        """The driver writes what the next vertical blank takes over."""
        self._wrote = now

    def evades(self, now: int) -> None:
        """The driver reads the scanline."""
        if self._timing is not None and self._regular(self._timing) - now < EVASION_NS:
            self._looked = self._ended = None

    def next_vblank(self) -> int | None:
        """When the next vertical blank begins, unless the driver holds it up further."""
        if self._timing is None or self._frozen is not None:
            return None
        regular = self._regular(self._timing)
        begin = max(regular, self._waited)
        if self._looked is not None:
            begin = max(begin, min(self._looked, regular) + LOOK_NS)
        if self._wrote is not None:
            begin = max(begin, min(self._wrote + UPDATE_NS, regular + WAIT_NS))
        if self._ended is not None:
            begin = max(begin, min(self._ended, regular + WAIT_NS) + LOOK_NS)
        return begin

    def settle(self, now: int) -> int:
        """How many vertical blanks have begun since this was last asked."""
        begin = self.next_vblank()
        if begin is None or self._timing is None:
            return 0
        if now < begin:
            self._waited = now
            return 0
        self._origin += begin - self._regular(self._timing)
        past = self._pixels(now) - self._next * self._timing.frame - self._timing.vblank
        begun = past // self._timing.frame + 1
        self._next += begun
        self._looked = self._wrote = self._ended = None
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
