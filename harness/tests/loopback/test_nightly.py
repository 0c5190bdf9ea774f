"""Whole nights against a real sshd that poses as several machines, with one that is not there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.evidence import journal
from harness.lab.history import History, default_url
from harness.tests.inner import ROOT
from harness.tests.loopback.posing import VICTIMS, posing
from harness.tests.loopback.sshd import Sshd, free_port

FAILS = f"{VICTIMS}::test_body_fails"
WAITS = f"{VICTIMS}::test_waits_to_be_killed"


@dataclass
class Night:
    """`lab nightly` as a process, on a target list of its own."""

    folder: Path
    box: Sshd

    def __post_init__(self) -> None:
        self.runs = self.folder / "runs"
        self.runs.mkdir()
        self.targets = self.folder / "targets.toml"

    def write(self, *names: str, dead: str = "") -> None:
        """All of them are the box, but `dead`, at whose port nobody listens."""
        with self.targets.open("w") as out:
            for name in (*names, *filter(None, [dead])):
                port, boot_s = (free_port(), 1) if name == dead else (self.box.port, 60)
                out.write(
                    f"[targets.{name}]\n"
                    'driver = "amdgpu"\naddress = "127.0.0.1"\nuser = "root"\n'
                    f'key = "{self.box.user_key}"\nhost_key = "{self.box.public()}"\n'
                    f'tags = ["rack-{name[0]}"]\n'
                    f"port = {port}\nlimits = {{ connect_s = 60, boot_s = {boot_s} }}\n"
                )

    def argv(self, *args: str) -> list[str]:
        lab = [sys.executable, "-m", "harness.cli", f"--inventory={self.targets}", "nightly"]
        return [*lab, f"--runs={self.runs}", *args]

    def run(self, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.argv(*args), cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def entries(self, what: str) -> list[dict[str, object]]:
        """Of the newest night's journal."""
        path = sorted((self.runs / "nights").iterdir())[-1] / "night.jsonl"
        return [entry for entry in journal.read(path) if entry["what"] == what]


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    server = posing(tmp_path_factory.mktemp("box"))
    yield server
    server.stop()


@pytest.fixture
def night(box: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Night:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return Night(tmp_path, box)


@pytest.mark.deep
def test_two_nights_in_a_row(night: Night, tmp_path: Path) -> None:
    night.write("one", dead="zero")
    mail = tmp_path / "mail"
    words = ["--jobs=2", f"--notify=tee {mail}", "--", FAILS]
    first = night.run(*words)
    assert first.returncode == 1, first.stdout
    assert "new (1)" in first.stdout
    assert "zero  the whole target" in first.stdout
    assert "Traceback" not in first.stdout
    assert mail.read_text() in first.stdout
    second = night.run(*words)
    # Nothing new; but the box that is not there did not do what was asked.
    assert second.returncode == 3, second.stdout
    assert "still failing (1)" in second.stdout
    assert "zero  the whole target" in mail.read_text()
    with History.open(default_url(night.runs)) as history:
        newest, older = history.nights()
        assert (newest.how, older.how) == ("done", "done")
        assert newest.targets == ("one", "zero")
        assert set(newest.troubles) == {"zero"}
        (result,) = history.results(nights=[newest.name])
        assert (result.target, result.test, result.outcome) == ("one", FAILS, "fail")
        assert history.add([night.runs]).read == 0


@pytest.mark.deep
def test_a_night_survives_sigkill_and_sigterm(
    night: Night, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    night.write("one", dead="zero")
    flag = tmp_path / "flag"
    monkeypatch.setenv("VICTIM_FLAG", str(flag))
    pids: list[int] = []

    def started(*args: str) -> subprocess.Popen[bytes]:
        """A night of which the first target's test waits."""
        flag.unlink(missing_ok=True)
        process = subprocess.Popen(night.argv("--jobs=1", *args), cwd=ROOT)
        deadline = Deadline(300)
        while not flag.exists() and process.poll() is None and deadline.pause(0.05):
            pass
        assert flag.exists()
        pids.append(int(str(night.entries("target-start")[-1]["pid"])))
        return process

    killed = started("--", WAITS, FAILS)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    deadline = Deadline(300)
    while Path(f"/proc/{pids[0]}").exists():  # its session does not outlive it
        assert deadline.pause(0.05)
    stopped = started("--resume")
    stopped.send_signal(signal.SIGTERM)
    assert stopped.wait(300) == 3
    assert not Path(f"/proc/{pids[1]}").exists()
    ends = [(e["target"], e["done"]) for e in night.entries("target-end")]
    assert ends == [("one", False), ("zero", False)]
    last = started("--resume")
    flag.unlink()  # the test ends now
    assert last.wait(300) == 1  # test_body_fails is new
    ends = [(e["target"], e["done"]) for e in night.entries("target-end")[2:]]
    assert ends == [("one", True), ("zero", True)]
    runs = sorted(path.name.split("-")[1] for path in night.runs.glob("2*"))
    assert runs == ["one", "zero"]  # it was gone on with, in one run directory each
    with History.open(default_url(night.runs)) as history:
        (only,) = history.nights()
        assert (only.how, set(only.troubles)) == ("done", {"zero"})
        outcomes = {(r.target, r.test): r.outcome for r in history.results()}
    # The pass is blind: there is no lockdep here.
    assert outcomes == {("one", WAITS): "blind", ("one", FAILS): "fail"}


@pytest.mark.deep
def test_a_budget_ends_one_target_only(
    night: Night, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    night.write("one")
    monkeypatch.setenv("VICTIM_FLAG", str(tmp_path / "flag"))
    done = night.run("--budget=3", "--", WAITS)
    assert done.returncode == 3, done.stdout
    assert "stopped after its budget of 3 s" in done.stdout
    assert night.entries("target-end")[-1]["done"] is True
