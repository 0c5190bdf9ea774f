"""The faults that can be switched on, each in one row of one table.

Parts read the attributes; the control socket lists the table and sets its
values.  A fault with `once` arms one event and goes back to `ok` by itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["TABLE", "Fault", "Faults"]

ONCE = ("ok", "once", "always")
ON_OFF = ("off", "on")


@dataclass(frozen=True)
class Fault:
    """One switch: the words it takes (the first is the default) and what it does.

    A word that ends in `:MS` takes a number of milliseconds there.
    """

    name: str
    values: tuple[str, ...]
    effect: str

    def accepts(self, value: str) -> bool:
        """Whether `value` is one of the fault's words."""
        return any(
            re.fullmatch(re.escape(word).replace("MS", r"[0-9]{1,6}"), value)
            for word in self.values
        )


TABLE = (
    Fault(
        "reset_ack",
        ("ok", "late:MS", "never"),
        "GDRST acknowledges a reset at once, MS milliseconds later, or never",
    ),
    Fault(
        "irq",
        ("ok", "lost", "stuck"),
        "the interrupt line follows IIR & IER, never rises, or never falls again once up",
    ),
    Fault(
        "ring_stuck",
        ONCE,
        "the command streamer stops inside the next packet of two dwords or more, until reset",
    ),
    Fault(
        "ring_corrupt",
        ONCE,
        "the next command fetched from the ring reads as garbage: an invalid instruction",
    ),
    Fault(
        "page_table_error",
        ONCE,
        "the next fetch of the command streamer meets an invalid PTE: EIR, ESR and PGTBL_ER say so",
    ),
    Fault(
        "vblank_frozen", ON_OFF, "scanline and frame counters stand still, no vblank is reported"
    ),
    Fault(
        "vblank_strict",
        ON_OFF,
        "a vertical blank comes when it is due, in the middle of an update, too, as on hardware",
    ),
    Fault("pipe_dead", ON_OFF, "a pipe that is switched on does not start"),
    Fault(
        "edid",
        ("ok", "garbage", "none"),
        "the monitor's EDID is right, has a bad checksum, or is not there",
    ),
)


class Faults:
    """The switches of one chip as they stand: an attribute for each row of the table."""

    reset_ack: str
    irq: str
    ring_stuck: str
    ring_corrupt: str
    page_table_error: str
    vblank_frozen: str
    vblank_strict: str
    pipe_dead: str
    edid: str

    def __init__(self) -> None:
        self._watchers: list[Callable[[], None]] = []
        self._rows = {fault.name: fault for fault in TABLE}
        self.reset()

    def set(self, name: str, value: str) -> None:
        """Put the fault `name` to `value`; ValueError, naming what there is, for another."""
        fault = self._rows.get(name)
        if fault is None:
            raise ValueError(f"no fault {name!r}; there are {', '.join(self._rows)}")
        if not isinstance(value, str) or not fault.accepts(value):
            raise ValueError(f"{name}: no value {value!r}; it takes {' | '.join(fault.values)}")
        setattr(self, name, value)
        self._changed()

    def reset(self) -> None:
        """Switch everything off."""
        for fault in TABLE:
            setattr(self, fault.name, fault.values[0])
        self._changed()

    def take(self, name: str) -> bool:
        """Whether the fault strikes now; `once` is used up by asking."""
        value = getattr(self, name)
        if value == "once":
            setattr(self, name, "ok")
            self._changed()
        return bool(value != "ok")

    def reset_delay(self) -> int | None:
        """Nanoseconds until GDRST acknowledges; None for never."""
        if self.reset_ack == "never":
            return None
        word, _, milliseconds = self.reset_ack.partition(":")
        return int(milliseconds) * 1_000_000 if word == "late" else 0

    def watch(self, changed: Callable[[], None]) -> None:
        """Call `changed` after each `set` and `reset`."""
        self._watchers.append(changed)

    def table(self) -> list[dict[str, str]]:
        """The table as the control socket shows it, with the values as they stand."""
        return [
            {
                "name": fault.name,
                "value": getattr(self, fault.name),
                "values": " | ".join(fault.values),
                "effect": fault.effect,
            }
            for fault in TABLE
        ]

    def _changed(self) -> None:
        for changed in self._watchers:
            changed()
