"""What a console foretells, however it is cut to pieces."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.kernel.omens import Omen, Omens

BOOT = b"[    0.000000][    T0] Linux version 6.12.117-lab (a@b) (gcc) #1 SMP\r\n"
PANIC = b"[   28.086861][  T151] Kernel panic - not syncing: sysrq triggered crash\r\n"
END = b"[   28.09][x]\r\n[   29.000001][  T151] ---[ end Kernel panic - not syncing: crash ]---\r\n"
RESTART = b"[   31.000000] reboot: Restarting system\r\n"
WAITS = b"[   28.090000][  T151] Rebooting in 10 seconds..\r\n"
CPU = b"[   28.087000][  T151] CPU: 1\r\n"
NIGHT = b"login: \r\n" + PANIC + CPU + WAITS + END + RESTART + BOOT
TOLD = [
    Omen("panic", "sysrq triggered crash"),
    Omen("panic-end", "Rebooting in 10 seconds.."),
    Omen("halt", "crash"),
    Omen("restart", "Restarting system"),
    Omen("boot", "6.12.117-lab"),
]


@given(st.lists(st.integers(0, len(NIGHT)), max_size=40))
def test_pieces_of_any_size_say_the_same(cuts: list[int]) -> None:
    omens, found = Omens(), []
    edges = [0, *sorted(cuts), len(NIGHT)]
    for start, end in itertools.pairwise(edges):
        found += omens.feed(NIGHT[start:end])
    assert found == TOLD


@pytest.mark.parametrize(
    "line",
    [
        b"Kernel panic - not syncing: said a program\n",
        b"[   28.086861] lab: Linux version 6.12\n",
        b"[   28.086861][  T151] they say Kernel panic - not syncing: quoted\n",
        b"[   12.000000] reboot: later\n",
    ],
)
def test_what_only_looks_like_one_is_none(line: bytes) -> None:
    assert Omens().feed(line) == []


def test_a_line_without_an_end_takes_no_memory() -> None:
    omens = Omens()
    for _ in range(100):
        assert omens.feed(b"x" * 65536) == []
    assert len(omens._line) <= 4096
    assert omens.feed(b"\n" + BOOT) == [TOLD[-1]]
