"""i915's error state: what is read out of one, and known for whole or not."""

from __future__ import annotations

import base64
import re
import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import pytest

from harness.agent.workload import i915_batches as batches
from harness.agent.workload.i915_batches import spin
from harness.gpu.i915_error import EMPTY, parse, problems

__all__: list[str] = []

BATCH = struct.pack("<4I", 0x18800080, 0x01000041, 0, 0x05000000) + bytes(4096 - 16)


def ascii85(data: bytes) -> str:
    """As include/linux/ascii85.h: dwords of the CPU, which is little-endian."""
    swapped = b"".join(data[at : at + 4][::-1] for at in range(0, len(data), 4))
    return base64.a85encode(swapped).decode()


def packed(data: bytes) -> str:
    squeezed = zlib.compress(data)
    return ":" + ascii85(squeezed + bytes(-len(squeezed) % 4))


# As __err_print_to_sgl() in Linux 6.12 writes it on gen3, with the long parts left out.
WHOLE = (
    "GPU HANG: ecode 3:1:7a3fdb8e, in lab-i915 [345]\n"
    "Kernel: 6.12.117-lab x86_64\nDriver: 20230929\nTime: 1700000000 s 5 us\n"
    "Capture: 4294900000 jiffies; 12 ms ago\nActive process (on ring rcs0): lab-i915 [345]\n"
    "Reset count: 0\nIER: 0x00000000\n"
    "rcs0 command stream:\n"
    "  CCID:  0x00000000\n  START: 0x0012c000\n  HEAD:  0x00000148 [0x00000120]\n"
    "  TAIL:  0x00000170 [0x00000150, 0x00000170]\n  CTL:   0x0001f001\n  MODE:  0x00000200\n"
    "  HWS:   0x0012b000\n  ACTHD: 0x00000000 0100f40c\n  IPEIR: 0x00000000\n"
    "  IPEHR: 0x18800080\n  ESR:   0x00000000\n  INSTDONE: 0xffffffff\n"
    "  batch: [0x00000000_01000000, 0x00000000_01001000]\n"
    "  hung: 1\n  engine reset count: 0\n"
    "  Active context: lab-i915[345] prio 0, guilty 0 active 0, runtime total 0ns, avg 0ns\n"
    f"rcs0 --- batch = 0x00000000 01000000\n{packed(BATCH)}\n"
    f"rcs0 --- ring = 0x00000000 0012c000\n~{ascii85(bytes(64))}\n"
    "graphics version: 3\ni915.modeset=-1\ni915.reset=3\ni915.error_capture=yes\n"
)


def test_a_whole_state_is_read() -> None:
    state = parse(WHOLE.encode())
    assert (state.ecode, state.generation) == ("3:1:7a3fdb8e", 3)
    assert (state.process, state.pid) == ("lab-i915", 345)
    (rcs,) = state.engines
    assert rcs.hung
    assert rcs.registers["ACTHD"] == 0x0100F40C
    assert rcs.registers["IPEHR"] == 0x18800080
    assert rcs.registers["HEAD"] == 0x148
    assert rcs.buffers == {"batch": BATCH, "ring": bytes(64)}
    assert problems(WHOLE.encode()) == []


def test_a_state_cut_anywhere_is_not_whole() -> None:
    """But between its last lines, where nothing in it says that there are more."""
    end = WHOLE.index("\ni915.modeset") + 1
    unseen = [cut for cut in range(len(WHOLE)) if not problems(WHOLE[:cut].encode())]
    assert all(cut > end for cut in unseen)
    assert all(WHOLE[cut - 1] == "\n" for cut in unseen)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("GPU HANG: ecode", "GPU hung:", "does not begin with a GPU HANG"),
        ("  hung: 1", "  hung: 0", "names no engine that hung"),
        ("  ACTHD: ", "  ACTED: ", "has no ACTHD of rcs0"),
        ("--- batch", "--- butch", "has no batch of rcs0"),
        ("\n:", "\n:!!!!!", "has a batch of rcs0 that does not decode"),
        ("i915.", "i916.", "does not reach the driver's parameters"),
    ],
)
def test_what_is_wrong_is_said(old: str, new: str, said: str) -> None:
    assert said in "; ".join(problems(WHOLE.replace(old, new).encode()))


def test_what_inflates_to_more_than_there_is_room_for_is_broken() -> None:
    # Each would fit, were it alone.
    large = packed(bytes(40 << 20))
    dump = WHOLE.replace(packed(BATCH), large)
    assert problems(dump.encode()) == []
    dump = dump.replace("~" + ascii85(bytes(64)), large)
    assert problems(dump.encode()) == ["has a ring of rcs0 that does not decode"]
    (rcs,) = parse(dump.encode()).engines
    assert rcs.buffers["ring"] is None


def test_noise_is_no_state() -> None:
    assert problems(EMPTY)
    assert problems(b"\xff\x00" * 100)
    assert problems(b"")


# Left by i915 of Linux 6.12 on the modelled G33 after a hang of "spin".
RECORDED = Path(__file__).parent / "data" / "error-state-g33.txt"


def test_a_recorded_state_is_whole_and_holds_the_batch_that_hung() -> None:
    dump = RECORDED.read_bytes()
    assert problems(dump) == []
    state = parse(dump)
    assert (state.ecode, state.process, state.pid) == ("3:1:637fff41", "lab-i915", 310)
    (rcs,) = state.engines
    batch = rcs.buffers["batch"]
    assert batch is not None
    assert batch[: batches.SIZE] == spin(3, 0x01000000, False).data
    # It was caught in its loop: at the jump, or at the loop's beginning.
    assert rcs.registers["ACTHD"] == 0x01000040
    assert rcs.registers["IPEHR"] == 0x18800080


def test_intel_s_decoder_reads_the_same() -> None:
    tool = shutil.which("intel_error_decode")
    if tool is None:
        pytest.skip("no intel_error_decode: install intel-gpu-tools")
    done = subprocess.run([tool, str(RECORDED)], capture_output=True, text=True, check=True)
    assert "Detected GEN3 chipset" in done.stdout
    assert "busy: Instruction parser" in done.stdout
    batch = done.stdout[done.stdout.index("batch (rcs0) at 0x00000000_01000000") :]
    commands = re.findall(r"^(0x\w{8}): .* (MI_\w+)", batch, re.MULTILINE)
    ours = [(at, name) for at, name in commands if name != "MI_NOOP"]
    assert ours[0] == ("0x01000f40", "MI_BATCH_BUFFER_START")
