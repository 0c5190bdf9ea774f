"""Whatever a guest sends, the model lives: an exception in it would be the lab's error."""

from __future__ import annotations

import random

import pytest

from harness.tests.unit.gen3.rig import BATCH, BATCH_END, BATCH_START, STORE_INDEX, Rig

# Headers with all their length bits, so that every command is seen too short and too long.
HEADERS = [opcode << 23 for opcode in range(0x40)]
HEADERS += [2 << 29 | opcode << 22 for opcode in (0x40, 0x43, 0x50, 0x53, 0x01, 0x71)]
HEADERS += [3 << 29 | opcode << 24 for opcode in range(0x20)]
LENGTHS = 0x3F


def garbage(rng: random.Random) -> list[int]:
    """A batch of headers with operands of any kind; blits small enough to be quick."""
    words: list[int] = []
    while len(words) < 60:
        words.append(rng.choice(HEADERS) | rng.randrange(LENGTHS + 1) % rng.choice((1, 2, 3, 8)))
        words += [rng.choice((0, BATCH, rng.randrange(1 << 16))) for _ in range(rng.randrange(8))]
    return [*words, BATCH_END]


@pytest.mark.parametrize("variant", ["g33", "945g"])
@pytest.mark.parametrize("seed", range(40))
def test_any_batch_can_be_recovered_from(variant: str, seed: int) -> None:
    rng = random.Random(seed)
    rig = Rig(variant)
    for secure in (True, False):
        rig.poke(BATCH, garbage(rng))
        rig.emit(BATCH_START, BATCH | (not secure))
        rig.wait(50)
        rig.chip.state()
        rig.chip.config_write(0xC0, 1, 1)
        rig.chip.config_write(0xC0, 1, 0)
        rig.start()
        rig.emit(STORE_INDEX, 0xC0, seed + 1)
        assert rig.status(0x30) == seed + 1


@pytest.mark.parametrize("seed", range(4))
def test_any_access_is_answered(seed: int) -> None:
    rng = random.Random(seed)
    rig = Rig()
    sizes = {0: 512 << 10, 1: 16, 2: rig.chip.variant.aperture_bytes, 3: rig.chip.variant.gtt_bytes}
    for _ in range(4000):
        size = rng.choice((1, 2, 4, 8))
        bar = rng.randrange(4)
        offset = rng.randrange(sizes[bar] // size) * size
        rig.chip.write(bar, offset, size, rng.randrange(1 << 8 * size))
        assert 0 <= rig.chip.read(bar, offset, size) < 1 << 8 * size
        rig.now += 100_000
        rig.chip.tick(rig.now)
    for offset in range(256):
        rig.chip.config_write(offset, 1, rng.randrange(256))
        assert 0 <= rig.chip.config_read(offset, 1) < 256
    rig.chip.state()
