"""Power: commands as configured, and a person where nothing is."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import ways
from harness.deadline import Deadline
from harness.errors import LabError
from harness.inventory import Target
from harness.link.power import NoPower, power_for
from harness.link.power_command import CommandPower


def _script(path: Path, body: str) -> str:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def _spec(tmp_path: Path, on: str = "", off: str = "", settle_s: float = 0.01) -> CommandPower:
    log = tmp_path / "log"
    return CommandPower(
        "box",
        ways.CommandPower(
            on=(_script(tmp_path / "on", on or f'echo "on $1" >> {log}'), "a b; rm -rf /"),
            off=(_script(tmp_path / "off", off or f"echo off >> {log}"),),
            settle_s=settle_s,
        ),
    )


def test_cycle_is_off_then_on_and_arguments_stay_whole(tmp_path: Path) -> None:
    _spec(tmp_path).cycle(Deadline(20))
    assert (tmp_path / "log").read_text() == "off\non a b; rm -rf /\n"


def test_a_failing_command_says_what_it_said_and_hides_its_arguments(tmp_path: Path) -> None:
    power = _spec(tmp_path, on="echo outlet 7 is locked >&2; exit 4")
    with pytest.raises(LabError, match="exit status 4: outlet 7 is locked") as caught:
        power.on(Deadline(20))
    assert "rm -rf" not in str(caught.value)
    assert "box" in str(caught.value)


def test_a_command_that_hangs_is_ended_at_the_deadline(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"not done within 0\.3 s"):
        _spec(tmp_path, off="exec sleep 600").off(Deadline(0.3))


def test_a_command_that_does_not_exist_is_named() -> None:
    spec = ways.CommandPower(on=("/no-such-pdu",), off=("/no-such-pdu",))
    with pytest.raises(LabError, match="/no-such-pdu"):
        CommandPower("box", spec).on(Deadline(5))


def test_too_little_time_to_settle_leaves_the_power_on(tmp_path: Path) -> None:
    power = _spec(tmp_path, settle_s=500)
    with pytest.raises(LabError, match="must stay off 500 s"):
        power.cycle(Deadline(20))
    assert (tmp_path / "log").read_text().splitlines()[-1].startswith("on")


def test_no_power_names_the_cure_for_each_way() -> None:
    power = power_for(Target(driver="i915", name="box", address="box", host_key="SHA256:x"))
    assert isinstance(power, NoPower)
    for switch in (power.on, power.off, power.cycle):
        with pytest.raises(LabError, match=r"\[targets\.box\]"):
            switch(Deadline(1))
