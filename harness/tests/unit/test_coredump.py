"""Devcoredumps: read to their end, and known for whole or not."""

from __future__ import annotations

import errno
from base64 import b64encode
from typing import Any, cast

import pytest

from harness.errors import TargetError
from harness.gpu.amdgpu_coredump import problems
from harness.gpu.base import Dump
from harness.link.agent import Agent
from harness.live import coredump
from harness.live.coredump import Coredump


def ring(name: str, dwords: int) -> str:
    rows = "".join(f"0x{4 * n:x} \t 0x{n * 0x10001:x}\n" for n in range(dwords))
    return (
        f"ring name: {name}\nRptr: 0x10 Wptr: 0x20 RB mask: {dwords - 1:x}\n"
        f"Ring size in dwords: {dwords}\nRing contents\nOffset \t Value\n{rows}"
    )


# As amdgpu_devcoredump_read() in Linux 6.12 writes it, with the long parts left out.
WHOLE = (
    "**** AMDGPU Device Coredump ****\nversion: 1\nkernel: 6.12.0\nmodule: amdgpu\n"
    "time: 1000.000000001\nprocess_name: hang PID: 7\n\nSOC Information\nSOC Device id: 29772\n"
    "\nRing timed out details\nIP Type: 0 Ring Name: gfx_0.0.0\n\nIP Dump\nIP: gfx_v10_0\n\n"
    "Ring buffer information\n"
    + ring("gfx_0.0.0", 16)
    + ring("sdma0", 8)
    + "VRAM is lost due to GPU reset!\n"
)


def test_a_whole_dump_has_no_problem() -> None:
    assert problems(WHOLE.encode()) == []


def test_a_dump_cut_anywhere_is_not_whole() -> None:
    """But at the end of a ring, where nothing in it says that there was another."""
    last_line = WHOLE.index("VRAM is lost")
    ends = {WHOLE.index("ring name: sdma0"), last_line, len(WHOLE)}
    unseen = [cut for cut in range(len(WHOLE) + 1) if not problems(WHOLE[:cut].encode())]
    assert set(unseen) == ends


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("AMDGPU Device", "Some Other", "does not begin with"),
        ("Ring Name: gfx_0.0.0", "Ring Name: comp_1.0.0", "does not hold the ring that timed out"),
        ("IP Type: 0", "IP type: 0", "does not say which ring timed out"),
        ("Ring size in dwords: 8", "Ring size: 8", "does not say how large ring sdma0 is"),
        ("0xc \t 0x30003\n", "", "has 15 of the 16 dwords of ring gfx_0.0.0"),
        ("ring name:", "ring:", "lists no ring"),
    ],
)
def test_what_is_wrong_is_said(old: str, new: str, said: str) -> None:
    count = 1 if old.startswith("0xc") else -1
    assert said in "; ".join(problems(WHOLE.replace(old, new, count).encode()))


def test_noise_is_no_dump() -> None:
    assert len(problems(b"\xff\x00" * 100)) == 4
    assert problems(b"") != []


class FakeAgent:
    """Files that can be read in pieces, and what was written to them."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.written: list[tuple[str, str]] = []

    def call(self, op: str, deadline: object, **args: Any) -> dict[str, Any]:
        path = args["path"]
        if path not in self.files:
            raise TargetError(f"cannot {op} it: {errno.errorcode[2]}", where=path, cure="none")
        if op == "write":
            self.written.append((path, args["data"]))
            return {"written": 1}
        data = self.files[path][args["offset"] : args["offset"] + args["limit"]]
        return {"data": b64encode(data).decode(), "truncated": False}


DISABLED = "/sys/class/devcoredump/disabled"
DUMP = Dump("devcoredump", "/dump", switch=DISABLED, off=b"1")


def dump_of(agent: FakeAgent, dump: Dump = DUMP) -> Coredump:
    return Coredump(cast(Agent, agent), dump, 1.0)


@pytest.mark.parametrize("pieces", [0.5, 1, 2, 2.5])
def test_a_dump_is_read_to_its_end(pieces: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coredump, "_PIECE", 1000)
    data = bytes(range(250)) * int(pieces * 4)
    assert dump_of(FakeAgent({"/dump": data})).read(0.0) == data


def test_no_dump_is_no_bytes_and_nothing_to_discard() -> None:
    agent = FakeAgent({})
    assert dump_of(agent).read(0.0) == b""
    dump_of(agent).discard()
    assert agent.written == []


def test_a_file_that_says_it_is_empty_holds_no_dump() -> None:
    dump = Dump("error state", "/error", switch="/error", empty=b"No error state")
    empty = dump_of(FakeAgent({"/error": b"No error state collected\n"}), dump)
    assert empty.read(0.0) == b""
    assert empty.refusal() == ""
    assert dump_of(FakeAgent({"/error": b"GPU HANG\n"}), dump).read(0.0) == b"GPU HANG\n"


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "makes no devcoredump: "),
        ({DISABLED: b"1\n"}, "disabled"),
        ({DISABLED: b"0\n"}, ""),
    ],
)
def test_a_kernel_that_makes_none_says_why(files: dict[str, bytes], said: str) -> None:
    refusal = dump_of(FakeAgent(files)).refusal()
    assert said in refusal
    assert bool(refusal) == bool(said)
