"""The agent's watchdog where there is none; a real one bites in harness/tests/vm/test_guards.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.agent import watchdog
from harness.agent.commands import Commands
from harness.agent.errors import AgentError
from harness.agent.watchdog import Watchdog


def test_no_watchdog_is_told_with_its_cure(tmp_path: Path) -> None:
    with pytest.raises(AgentError, match="cannot open the watchdog") as caught:
        Watchdog().start(str(tmp_path / "absent"), 10, None, Commands())
    assert caught.value.kind == "target"
    assert "watchdog.module" in caught.value.cure


def test_what_is_no_watchdog_is_let_go(tmp_path: Path) -> None:
    device = tmp_path / "watchdog"
    device.touch()
    dog = Watchdog()
    with pytest.raises(AgentError, match="this watchdog cannot be used"):
        dog.start(str(device), 10, None, Commands())
    assert device.read_bytes() == b"V", "the magic close, in case it was armed"
    dog.starve()
    dog.stop()
    dog.stop()


def test_one_that_can_never_be_disarmed_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "watchdog0").mkdir()
    (tmp_path / "watchdog0" / "nowayout").write_text("1\n")
    monkeypatch.setattr(watchdog, "_CLASS", str(tmp_path))
    device = tmp_path / "device"
    device.touch()
    with pytest.raises(AgentError, match="watchdog0 can never be disarmed"):
        Watchdog().start(str(device), 10, None, Commands())
    assert device.read_bytes() == b""
