"""Where the beam of a pipe is: frames, lines, vertical blanks, as times of the chip's clock.

Nothing runs in the background: whoever looks says what time it is, and is told
which vertical blanks have begun since.  No vertical blank begins in the middle
of an update, unless the beam is strict; see Beam.update.
"""

from __future__ import annotations

from tools.gen3.timing import Timing

__all__ = ["BEGIN_NS", "CURSOR_NS", "LINE_NS", "PLANE_NS", "WAIT_NS", "Beam"]

# How long an update is taken to go on after each of its steps; see Beam.update.
BEGIN_NS = 8_000_000
PLANE_NS = 12_000_000
CURSOR_NS = 4_000_000
"""Short: a cursor that is moved by itself is an update that nothing ends."""
LINE_NS = 3_000_000
"""Short: this may be the first step of another one, which sleeps until the vertical blank comes,
or for 4 ms and more (intel_vblank_evade)."""
WAIT_NS = 40_000_000
"""The longest that one vertical blank waits; the kernel gives up on one after 100 ms."""
UNSEEN_NS = 100_000_000
"""A look that is older than this was not of the update that goes on."""
SECOND = 1_000_000_000


class Beam:
    """The beam of one pipe.  All times are ns of the clock that the callers share."""

    def __init__(self) -> None:
        self._timing: Timing | None = None
        self._hz = 0
        # When frame 0 began; moved by holding and freezing.
        self._origin = 0
        # Number of the frame whose vertical blank comes next.
        self._next = 0
        # Until when an update is taken to go on.
        self._updating = 0
        # The last look at the frame counter, and the vertical blanks since.
        self._looked = -UNSEEN_NS
        self._unseen = 0
        # When it was last seen not to have begun: it cannot have begun before.
        self._waited = 0
        self._frozen: int | None = None
        self._strict = False
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
        self._unseen, self._updating = 0, now
        self._hz = timing.clock_hz
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

    def keep_time(self, strict: bool) -> None:
        """Wait for no update any more, as hardware does not; or do so again."""
        self._strict = strict
        if strict:
            self._updating = 0

    def update(self, now: int, ns: int) -> int:
        """The driver writes what the next vertical blank takes over, or is about to.

        i915 keeps clear of a vertical blank, looks at the frame counter, writes, and looks again;
        a vertical blank in between is an "Atomic update failure" (intel_pipe_update_end).  It
        keeps clear for 100 us, or 250 us with lockdep (VBLANK_EVASION_TIME_US): on hardware
        hundreds of register accesses, here ten at best, and not one on a loaded host.  So a
        vertical blank waits up to `ns` for the update's next step, and one that has begun and
        that nobody has seen has not begun after all.  Returns how many those were.
        """
        undone = self._undo(now)
        self.expect(now, ns)
        return undone

    def updating(self, now: int) -> bool:
        """Whether an update is taken to go on."""
        return now < self._updating

    def expect(self, now: int, ns: int) -> None:
        """An update begins, or if one goes on, its end comes nearer."""
        if not self._strict:
            self._updating = max(self._updating, now + ns)

    def looked(self, now: int, ends: bool) -> int:
        """The driver looks at the frame counter; when that ends an update, returns as `update`."""
        undone = self._undo(now) if ends else 0
        if ends:
            self._updating = now
        self._looked, self._unseen = now, 0
        return undone

    def _undo(self, now: int) -> int:
        """Put off until after `now` what has begun since the last look."""
        idle = self._timing is None or self._frozen is not None or not self._unseen
        if self._strict or idle or now - self._looked > UNSEEN_NS:
            return 0
        assert self._timing is not None
        undone, self._unseen = self._unseen, 0
        self._next -= undone
        self._origin += now + 1 - self._regular(self._timing)
        return undone

    def next_vblank(self) -> int | None:
        """When the next vertical blank begins, unless the driver holds it up further."""
        if self._timing is None or self._frozen is not None:
            return None
        regular = self._regular(self._timing)
        return max(regular, self._waited, min(self._updating, regular + WAIT_NS))

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
        self._unseen += begun
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
