"""What i915's engines can be given: ways to hang, and work that is only slow."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Callable, NamedTuple

from ..uapi import i915 as abi
from .i915_batches import Batch, fill, invalid, nothing, spin, store, zeros
from .i915_chips import LATEST, can_store, generation

__all__ = ["RECIPES", "Recipe", "draws", "recipes", "writing"]


class Recipe(NamedTuple):
    """How to hang; `build(generation, address)`.  What the CPU cannot end, a reset must."""

    releasable: bool
    build: Callable[[int, int], Batch]


RECIPES: Mapping[str, Recipe] = {
    "spin_nopre": Recipe(True, partial(spin, preemptible=False)),
    # Where nothing preempts, the plainer one.
    "spin": Recipe(True, lambda number, address: spin(number, address, number >= LATEST)),
    "invalid": Recipe(False, invalid),
    "unterminated": Recipe(False, lambda number, address: zeros()),
}


def recipes(number: int, ppgtt: int) -> list[str]:
    """Which recipes fit generation `number`, the safest first.

    Before generation 8 nothing preempts, and "spin" is a hang.  From then on it gives way to
    heartbeats, so that only its time limit ends it, and the one that hangs is "spin_nopre".
    A batch without an end is only for those that run in an address space of their own: else
    what lies behind it is somebody else's.
    """
    spinners = ["spin_nopre", "spin"] if number >= LATEST else ["spin"]
    ends = ["unterminated"] if ppgtt >= abi.PPGTT_FULL else []
    return [*spinners, "invalid", *ends]


def draws(number: int, kind: str) -> bool:
    """Whether this engine of generation `number` has the 2D commands, with which it can be kept
    busy: the render engine, and from generation 6 on the blitter instead.  From 8 on they are
    other ones."""
    return number < LATEST and kind == ("rcs" if number < 6 else "bcs")


def writing(chip: int, kind: str, value: int) -> tuple[bool, Callable[[int], Batch]]:
    """Whether this engine of the chip with that PCI id can write a dword, and the batch, for an
    address, that does."""
    number = generation(chip)
    if can_store(chip, kind):
        return True, lambda address: store(number, address, value)
    if kind == "rcs" and draws(number, kind):
        return True, lambda address: fill(address, value)
    return False, lambda address: nothing()
