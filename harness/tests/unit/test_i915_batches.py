"""i915's batches: byte for byte as others write them, and as others read them."""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from harness.agent.uapi import i915 as abi
from harness.agent.workload import i915_batches as batches
from harness.agent.workload import i915_chips as chips
from harness.agent.workload.i915_batches import Batch, fill, fills, invalid, spin, store, zeros
from harness.agent.workload.i915_recipes import draws, recipes
from harness.tests.kmsg import shared

__all__: list[str] = []

A = 0x01000000
FAMILIES = {"gen2/3": (2, 3), "gen4/5": (4, 5), "gen6/7": (6, 7), "gen8/9/11/12": (8,)}
# One chip of each generation: 855, G33, 965GM, Ironlake, Sandy Bridge, Haswell, Broadwell.
CHIPS = {2: 0x3582, 3: 0x29C2, 4: 0x2A02, 5: 0x0046, 6: 0x0116, 7: 0x0416, 8: 0x1616}


def words(batch: Batch) -> dict[int, int]:
    """Those that are not 0, by index."""
    all_ = struct.unpack(f"<{len(batch.data) // 4}I", batch.data)
    return {index: word for index, word in enumerate(all_) if word}


def recorded() -> list[tuple[str, bool, int, dict[int, int], dict[int, int]]]:
    """Of the table: family, preemptible, condition's dword, dwords, relocations."""
    path = shared("facts/samples/packets-i915-spin.txt")
    if not path.exists():
        pytest.skip("the recorded batches are not beside this checkout")
    found = []
    for part in path.read_text().split("\n== ")[1:]:
        head = re.match(r"(\S+)(?: \(.*?\))?\s+(NOPRE|PRE)\s+condition dw(\d+)", part)
        assert head, part[:80]
        dwords = {
            int(i): int(w, 16) for i, w in re.findall(r"^  dw(\d+) .*?: (\w{8})$", part, re.M)
        }
        relocations = re.findall(r"offset (0x\w+) delta (0x\w+)", part)
        found.append(
            (
                head[1],
                head[2] == "PRE",
                int(head[3]),
                {index: word for index, word in dwords.items() if word},
                {int(offset, 16): int(delta, 16) for offset, delta in relocations},
            )
        )
    return found


def test_spinners_are_those_of_the_table() -> None:
    table = recorded()
    assert {(family, preemptible) for family, preemptible, *_ in table} == {
        (family, preemptible) for family in FAMILIES for preemptible in (True, False)
    }
    for family, preemptible, condition, dwords, relocations in table:
        for generation in FAMILIES[family]:
            batch = spin(generation, A, preemptible)
            assert words(batch) == dwords, (generation, preemptible)
            assert {one.offset: one.delta for one in batch.addresses} == relocations
            assert not any(one.write for one in batch.addresses)
            assert batch.release == 4 * condition


def decoded(generation: int, batch: Batch, tmp_path: Path) -> list[tuple[int, str]]:
    """What Intel's own decoder makes of a batch: (byte, name) of each command but no-operations."""
    tool = shutil.which("intel_dump_decode")
    if tool is None:
        pytest.skip("no intel_dump_decode: install intel-gpu-tools")
    path = tmp_path / "batch"
    path.write_bytes(batch.data)
    done = subprocess.run(
        [tool, f"--devid={CHIPS[generation]:#x}", "--binary", str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = re.findall(r"^(0x\w{8}): (?:HEAD|    ) 0x\w{8}: (.*)$", done.stdout, re.M)
    told = [(int(at, 16), name.split(":")[0].strip()) for at, name in lines]
    return [(at, name) for at, name in told if not re.match(r"MI_NOOP|dword \d+", name)]


@pytest.mark.parametrize("generation", CHIPS)
def test_spinners_decode_to_a_jump_back(generation: int, tmp_path: Path) -> None:
    batch = spin(generation, A, False)
    jump = 4 * 976 if generation < 8 else 4 * 980
    told = decoded(generation, batch, tmp_path)
    assert (jump, "MI_BATCH_BUFFER_START") in told
    # All before it are no-operations, or the condition.
    assert [at for at, _ in told if at < 4 * 976] == []
    target = struct.unpack_from("<I", batch.data, jump + 4)[0]
    assert target & ~3 == A + 64, "it jumps to its own loop"


@pytest.mark.parametrize("generation", CHIPS)
def test_a_released_spinner_ends_in_its_loop(generation: int, tmp_path: Path) -> None:
    batch = spin(generation, A, True)
    assert batch.release is not None
    data = bytearray(batch.data)
    struct.pack_into("<I", data, batch.release, batches.END)
    ended = Batch(bytes(data), batch.addresses, None)
    if generation < 8:
        assert (64, "MI_BATCH_BUFFER_END") in decoded(generation, ended, tmp_path)
    else:
        # Goes on while the dword there is above what the condition has.
        limit, at = struct.unpack_from("<II", ended.data, 4 * 978)
        assert at == A + batch.release
        assert struct.unpack_from("<I", ended.data, batch.release)[0] <= limit
        assert struct.unpack_from("<I", batch.data, batch.release)[0] > limit


@pytest.mark.parametrize("generation", [3, 4, 6, 7, 8])
def test_a_store_decodes_to_a_store(generation: int, tmp_path: Path) -> None:
    batch = store(generation, A, 0xCA9A0001)
    # At four dwords the decoder, as gen3's, takes the fourth for the next command.
    end = 12 if generation == 3 else 16
    told = decoded(generation, batch, tmp_path)
    assert told[0] == (0, "MI_STORE_DATA_IMM")
    assert (end, "MI_BATCH_BUFFER_END") in told
    (place,) = batch.addresses
    assert place.write
    assert place.delta == batches.TARGET
    assert struct.unpack_from("<I", batch.data, place.offset)[0] == A + batches.TARGET
    assert struct.unpack_from("<I", batch.data, end - 4)[0] == 0xCA9A0001


@pytest.mark.parametrize("generation", [2, 3, 4, 5])
def test_a_fill_decodes_to_one_pixel(generation: int, tmp_path: Path) -> None:
    told = decoded(generation, fill(A, 0xCA9A0001), tmp_path)
    assert told[0][0] == 0
    assert told[0][1].startswith("XY_COLOR_BLT (rgb enabled, alpha enabled, ")
    assert (24, "MI_BATCH_BUFFER_END") in told


@pytest.mark.parametrize("generation", [2, 3, 4, 5, 6, 7])
def test_slow_work_decodes_to_whole_rectangles(generation: int, tmp_path: Path) -> None:
    count = 400
    batch = fills(A, 1, count)
    # Its operands have names, too.
    told = [one for one in decoded(generation, batch, tmp_path) if re.match("XY_|MI_", one[1])]
    assert len(batch.data) == 3 * batches.SIZE
    assert [at for at, _ in told] == [24 * n for n in range(count + 1)]
    assert {name.partition(" (")[0] for _, name in told[:-1]} == {"XY_COLOR_BLT"}
    assert told[-1][1] == "MI_BATCH_BUFFER_END"
    assert [one.offset for one in batch.addresses] == [24 * n + 16 for n in range(count)]
    assert all(one.write and one.delta == 0 for one in batch.addresses)
    pitch, _, corner = struct.unpack_from("<3I", batch.data, 4)
    assert (pitch & 0xFFFF) * (corner >> 16) == batches.FILLED
    assert (corner & 0xFFFF) * 4 == pitch & 0xFFFF


def test_who_draws() -> None:
    assert [n for n in CHIPS if draws(n, "rcs")] == [2, 3, 4, 5]
    assert [n for n in CHIPS if draws(n, "bcs")] == [6, 7]
    assert not any(draws(n, "vcs") for n in CHIPS)


def test_an_invalid_command_is_one_to_the_decoder(tmp_path: Path) -> None:
    for generation in CHIPS:
        told = decoded(generation, invalid(generation, A), tmp_path)
        assert told[0] == (64, "UNKNOWN"), generation


def test_addresses_above_4_gib_have_two_dwords() -> None:
    high = spin(8, 5 << 32 | A, False)
    for one in high.addresses:
        low, upper = struct.unpack_from("<II", high.data, one.offset)
        assert (low, upper) == (A + one.delta, 5)


def test_a_batch_without_an_end_has_none() -> None:
    assert not any(zeros().data)
    assert len(zeros().data) == batches.SIZE


def test_only_those_with_their_own_address_space_run_off_a_batch() -> None:
    assert recipes(3, 0) == ["spin", "invalid"]
    assert recipes(7, 1) == ["spin", "invalid"]
    assert recipes(8, abi.PPGTT_FULL) == ["spin_nopre", "spin", "invalid", "unterminated"]


def test_which_engines_store() -> None:
    able = {generation: chips.can_store(device, "rcs") for generation, device in CHIPS.items()}
    assert able == {2: False, 3: True, 4: True, 5: False, 6: True, 7: True, 8: True}
    assert not chips.can_store(0x2582, "rcs"), "915G"
    assert not chips.can_store(0x29A2, "rcs"), "965G"
    assert not chips.can_store(0x2E22, "rcs"), "G45"
    assert not chips.can_store(0x0116, "vcs"), "Sandy Bridge's video ring"
    assert chips.can_store(0x0116, "bcs")


# Of the kernel's header: which macro lists the ids of which generation.
MACROS = {
    2: ("I830", "I845G", "I85X", "I865G"),
    3: ("I915G", "I915GM", "I945G", "I945GM", "G33", "PNV_G", "PNV_M"),
    4: ("I965G", "I965GM", "GM45", "G45"),
    5: ("ILK_D", "ILK_M"),
    6: ("SNB_D_GT1", "SNB_D_GT2", "SNB_M_GT1", "SNB_M_GT2"),
    7: (
        *("IVB_M_GT1", "IVB_M_GT2", "IVB_D_GT1", "IVB_D_GT2", "VLV"),
        *("HSW_ULT_GT1", "HSW_ULX_GT1", "HSW_GT1", "HSW_ULT_GT2", "HSW_ULX_GT2", "HSW_GT2"),
        *("HSW_ULT_GT3", "HSW_GT3"),
    ),
}


def test_generations_are_the_kernels() -> None:
    tree = os.environ.get("LAB_KERNEL_TREE", "")
    header = Path(tree, "include/drm/intel/i915_pciids.h")
    if not tree or not header.exists():
        pytest.skip("set LAB_KERNEL_TREE to a kernel tree of 6.12 or later")
    text = header.read_text()
    lists = dict(re.findall(r"#define INTEL_(\w+)_IDS\(MACRO__, \.\.\.\) \\\n((?:\t.*\n)+)", text))
    known = set()
    for generation, macros in MACROS.items():
        for macro in macros:
            ids = {int(number, 16) for number in re.findall(r"MACRO__\((0x\w+)", lists[macro])}
            assert ids, macro
            assert {chips.generation(device) for device in ids} == {generation}, macro
            known |= ids
    others = {int(n, 16) for n in re.findall(r"MACRO__\((0x\w+)", text)} - known
    assert {chips.generation(device) for device in others} == {chips.LATEST}
