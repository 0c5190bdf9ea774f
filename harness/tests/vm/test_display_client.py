"""The harness's own display client, on simgpu's monitor: what it says is so."""

from __future__ import annotations

import struct
from zlib import crc32

import pytest

from harness.errors import TargetError, UsageError
from harness.live.dut import Dut
from harness.tests.vm.screen import MODES

PATIENCE_S = 30.0


def crc_of_the_known_frame(width: int, height: int) -> str:
    """As simgpu computes it, of the picture that workload/kms_device.py draws from seed 1."""
    rows = (
        struct.pack("<I", (0x9E3779B1 + y * 0x010305) & 0xFFFFFF) * width for y in range(height)
    )
    return f"0x{crc32(b''.join(rows)):08x}"


def test_it_shows_a_frame_that_is_always_the_same(sim: Dut) -> None:
    with sim.display() as display:
        (output,) = display.outputs()
        assert output.mode == MODES[0]
        display.show(output)
        assert display.active()
        width, height = map(int, output.mode.split("x"))
        for _ in range(2):
            crcs = display.crcs(output, 8, PATIENCE_S)
            assert crcs is not None
            assert crcs[-1] == crc_of_the_known_frame(width, height)
            flips = display.flips(1.0, PATIENCE_S)
            assert not flips.lost
            assert flips.done >= 2
        assert display.vblank(PATIENCE_S)


def test_only_one_is_master(sim: Dut) -> None:
    with sim.display() as display, pytest.raises(TargetError, match="cannot become DRM master"):
        sim.display()
    display.stop()
    with sim.display() as another:
        assert another.outputs()


def test_nothing_can_be_flipped_before_it_is_shown(sim: Dut) -> None:
    with sim.display() as display:
        with pytest.raises(UsageError, match="nothing is shown"):
            display.flips(0.1, 1.0)
        (output,) = display.outputs()
        with pytest.raises(UsageError, match="has no mode"):
            display.show(type(output)(output.connector + 1, 0, ""))


def test_a_pipe_that_is_off_gives_no_crc(sim: Dut) -> None:
    with sim.display() as display:
        (output,) = display.outputs()
        assert display.crcs(output, 1, 2.0) == []
        nowhere = type(output)(output.connector, output.pipe + 7, "")
        assert display.crcs(nowhere, 1, 2.0) is None
