"""amdgpu's packets: dword for dword those of the table of what others submit, and of the kernel."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.agent.errors import AgentError
from harness.agent.workload import amdgpu_packets as packets
from harness.agent.workload.amdgpu_device import Buffer, Device, Engine
from harness.agent.workload.amdgpu_slow import Slow
from harness.agent.workload.slow import pieces
from harness.tests.kmsg import shared

__all__: list[str] = []

POLLED, TARGET = 5 << 32 | 0x100400, 5 << 32 | 0x100800
MEBI = 1 << 20


@pytest.fixture(scope="module")
def table() -> dict[int, str]:
    """Its numbered items."""
    path = shared("facts/samples/packets-amdgpu-hang.txt")
    if not path.exists():
        pytest.skip("the table of packets is not beside this checkout")
    parts = re.split(r"^(\d)\) ", path.read_text(), flags=re.M)
    return {int(number): text for number, text in zip(parts[1::2], parts[2::2], strict=True)}


def dwords(text: str) -> dict[int, int]:
    """The dwords that an item gives as numbers; those with an address are left out."""
    found = re.findall(r"dw(\d)\s+([0-9A-F]{1,8})\b", text)
    return {int(index): int(value, 16) for index, value in found}


@pytest.mark.parametrize(("item", "engine"), [(1, "gfx"), (1, "compute"), (2, "sdma")])
def test_waits_are_those_of_the_table(table: dict[int, str], item: int, engine: str) -> None:
    recipe = "poll_regmem" if engine == "sdma" else "wait_reg_mem"
    built = packets.RECIPES[recipe].build(engine, POLLED, TARGET)
    theirs = dwords(table[item])
    at = 1 if engine == "sdma" else 2
    assert (built[at], built[at + 1]) == (POLLED & 0xFFFFFFFC, POLLED >> 32)
    ours = {n: word for n, word in enumerate(packets.pad(engine, built, 16))}
    assert len(theirs) >= 4
    assert {n: ours[n] for n in theirs} == theirs
    assert len(ours) == 16


def test_what_is_illegal_is_so_in_the_table(table: dict[int, str]) -> None:
    illegal = packets.RECIPES["illegal_opcode"].build
    header = re.search(r"PACKET3\(0xF2, 2\+128\) = ([0-9A-F]{8})", table[3])
    assert header
    assert illegal("gfx", POLLED, TARGET)[0] == int(header[1], 16)
    assert illegal("sdma", POLLED, TARGET)[0] == 0xF2
    register = packets.RECIPES["illegal_register"].build("gfx", POLLED, TARGET)
    memory = packets.RECIPES["illegal_memory"].build("gfx", POLLED, TARGET)
    write = re.search(r"WRITE_DATA op 0x37\): ([0-9A-F]{8})", table[4])
    assert write
    assert {register[0], memory[0]} == {int(write[1], 16)}
    assert register[1:] == [1 << 20, 0x54F, 0, 0xDEADBEEF]
    assert memory[1:] == [5 << 8 | 1 << 20, 0xDEADBEE0, 0, 0xDEADBEEF]
    bad = re.search(r"dw0 = ([0-9A-F]{8})", table[5])
    assert bad
    built = packets.RECIPES["bad_sdma_header"].build("sdma", POLLED, TARGET)
    assert built[0] == int(bad[1], 16)
    assert len(built) == 7


def test_slow_work_is_made_of_the_tables_packets(table: dict[int, str]) -> None:
    # A write, as its item 4 has them; a linear copy, as on the line of items 5 and 6.
    write = packets.store("gfx", TARGET, 1, True)
    assert write[:2] == [0xC0033700, 5 << 8 | 1 << 20]
    copy = packets.copy(POLLED, TARGET, True)
    assert "6) SDMA slow" in table[5]
    assert f"{len(copy)}-dword linear copy" in table[5]
    assert copy[0] == 1


def test_copies_are_the_kernels() -> None:
    """sdma_v5_0_emit_copy_buffer(), read as text: six values after the header."""
    tree = os.environ.get("LAB_KERNEL_TREE", "")
    source = Path(tree, "drivers/gpu/drm/amd/amdgpu/sdma_v5_0.c")
    if not tree or not source.exists():
        pytest.skip("set LAB_KERNEL_TREE to a kernel tree that has amdgpu")
    body = source.read_text().partition("static void sdma_v5_0_emit_copy_buffer(")[2]
    body = body.partition("\n}")[0]
    values = re.findall(r"length_dw\+\+\] = ([^;]+);", body)
    names = {
        "byte_count - 1": packets.COPIED - 1,
        "0": 0,
        "lower_32_bits(src_offset)": POLLED & 0xFFFFFFFF,
        "upper_32_bits(src_offset)": POLLED >> 32,
        "lower_32_bits(dst_offset)": TARGET & 0xFFFFFFFF,
        "upper_32_bits(dst_offset)": TARGET >> 32,
    }
    assert "SDMA_OP_COPY" in values[0]
    assert [names[value] for value in values[1:]] == packets.copy(POLLED, TARGET, True)[1:]


# -- how much of it ----------------------------------------------------------------


def told(elapsed_ns: int | None, error: int = 0) -> dict[str, Any]:
    return {"signaled": elapsed_ns is not None, "error": error, "elapsed_ns": elapsed_ns}


@pytest.mark.parametrize("each", [50, 50_000, 100_000_000])
def test_as_much_work_as_lasts_that_long(each: int) -> None:
    count, expected = pieces(lambda count: told(count * each), 2.0, 1 << 40)
    assert count * each == expected == pytest.approx(2e9, rel=0.05)


@pytest.mark.parametrize("ways", [[900_000_000, 0], [0, 900_000_000], [100_000_000, 30_000_000]])
def test_a_slow_way_to_the_ring_is_no_work(ways: list[int]) -> None:
    left = [*ways, *[0] * 8]
    count, expected = pieces(lambda count: told(left.pop(0) + count * 1_000_000), 2.0, 1 << 40)
    assert count == pytest.approx(2000, rel=0.05)
    assert expected == pytest.approx(2e9, rel=0.05)


def test_one_job_has_a_limit_and_says_so() -> None:
    assert pieces(lambda count: told(count * 1000), 2.0, 5000) == (5000, 5_000_000)
    assert pieces(lambda count: told(10**11), 2.0, 5000) == (1, 10**11 // 8)


@pytest.mark.parametrize("bad", [told(None), told(5, -62)])
def test_a_trial_that_does_not_end_well_is_told(bad: dict[str, Any]) -> None:
    with pytest.raises(AgentError, match="8 small pieces"):
        pieces(lambda count: bad, 1.0, 5000)


class Patient:
    """A device that takes jobs, each packet of which lasts `each` ns; what it still has."""

    minus_one = True

    def __init__(self, each: int) -> None:
        self.each = each
        self.kept: list[Buffer] = []
        self.sent: list[tuple[bytes, int]] = []

    def max_ibs(self, engine: Engine) -> int:
        return 192

    def buffer(self, size: int) -> Buffer:
        self.kept.append(Buffer(len(self.kept) + 1, MEBI * (1 + len(self.kept)), memory(size)))
        return self.kept[-1]

    def free(self, buffer: Buffer) -> None:
        self.kept.remove(buffer)

    def repeated(
        self, engine: Any, ring: int, buffer: Buffer, size: int, times: int, written: list[int]
    ) -> Any:
        assert written == [self.kept[0].handle]
        self.sent.append((bytes(buffer.memory[:size]), times))
        return None

    def send(self, context: int, command: None) -> int:
        return len(self.sent)

    def fence(self, job: Any) -> Any:
        data, times = self.sent[-1]
        elapsed = len(data) // 20 * times * self.each
        info = {"status": 1, "fences": [{"timestamp_ns": elapsed}]}
        return SimpleNamespace(
            wait=lambda ns: True, info=lambda: info, close=lambda: None, identity=lambda: (1, 1)
        )


def memory(size: int) -> Any:
    return cast(Any, bytearray(size))


def words(data: bytes) -> Iterator[tuple[int, ...]]:
    return struct.iter_unpack("<5I", data[: len(data) // 20 * 20])


def test_a_job_is_its_packet_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.monotonic_ns", lambda: 0)
    device = Patient(1000)
    engine = cast(Engine, SimpleNamespace(name="gfx", ib_size_alignment=32))
    submitted, expected = Slow(cast(Device, device), 1, engine, 0).submit(2.0)
    # The trials' buffers are free again.
    assert len(device.kept) == 2
    assert submitted.buffer == device.kept[1].handle
    data, times = device.sent[-1]
    assert expected == pytest.approx(2e9, rel=0.05)
    assert 1 < times <= 49
    assert len(data) < 4 << 20
    assert len(data) % 64 == 0
    packet = tuple(packets.store("gfx", device.kept[0].address + 2048, 1, True))
    filling = [packet != one for one in words(data)]
    assert not any(filling[: -16 // 5])
    rest = data[len([f for f in filling if not f]) * 20 :]
    assert len(rest) < 64
    assert set(struct.unpack(f"<{len(rest) // 4}I", rest)) <= {0xFFFF1000}
