"""Tests that turn a knob and do not live to put it back; run by test_unwatched.py one floor up,
in a session of their own."""

from __future__ import annotations

from base64 import b64decode

from harness.deadline import Deadline
from harness.live.dut import Dut

# Of the first ring that can be pinned, before anything was turned.
ORIGINALS: dict[str, str] = {}


def value(dut: Dut, path: str) -> str:
    return b64decode(dut.call("read", path=path)["data"]).decode()


def turned(dut: Dut) -> str:
    """Pin a ring by its mask, which is another value than before; the mask's path."""
    engine = next(engine for engine in dut.engines() if engine.pins)
    path = engine.pins[0].path
    ORIGINALS.setdefault(path, value(dut, path))
    dut.pin(engine)
    assert value(dut, path) != ORIGINALS[path]
    return path


def restored(dut: Dut) -> None:
    assert ORIGINALS
    for path, original in ORIGINALS.items():
        deadline = Deadline(60)
        while value(dut, path) != original and deadline.pause(0.1):
            pass
        assert value(dut, path) == original


def test_a_fails_with_a_knob_turned(dut: Dut) -> None:
    assert turned(dut) == "", "as planned"


def test_b_after_the_failure(dut: Dut) -> None:
    restored(dut)


def test_c_agent_is_killed_with_a_knob_turned(dut: Dut) -> None:
    turned(dut)
    dut.call("run", argv=["kill", "-KILL", str(dut.facts["pid"])])
    dut.health()


def test_d_after_the_agent(dut: Dut) -> None:
    restored(dut)
