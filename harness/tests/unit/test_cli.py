"""The `lab` command: what it says, and its exit status."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
from click import Context
from click.testing import CliRunner, Result

from harness import cli
from harness.cli import main
from harness.evidence.files import write_json
from harness.evidence.rundir import RunDir
from harness.lab.reservation import Reservation
from harness.tests.inner import targets_file
from harness.tests.kmsg import raw
from harness.tests.unit.test_verdict import QUIET, closed


@pytest.fixture
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    return targets_file(tmp_path / "targets.toml", "sim-cli")


def lab(listed: Path, *args: str) -> Result:
    return CliRunner().invoke(main, ["--inventory", str(listed), *args])


def test_targets_are_listed_with_who_holds_them(listed: Path) -> None:
    assert "held by" in lab(listed, "targets").output
    with Reservation.take("sim-cli", "a run"):
        told = lab(listed, "targets").output
    assert "sim-cli" in told
    assert "QEMU, ati-vga" in told
    assert "pid " in told


def test_unlock_names_whom_it_took_it_from(listed: Path) -> None:
    assert "not held" in lab(listed, "unlock", "sim-cli").output
    held = Reservation.take("sim-cli", "pytest somewhere")
    done = lab(listed, "unlock", "sim-cli")
    assert (done.exit_code, "pytest somewhere" in done.output) == (0, True)
    assert Reservation.holder("sim-cli") is None
    held.release()


@pytest.mark.parametrize("command", ["doctor", "console", "shell", "unlock"])
def test_unknown_target_is_a_usage_error(listed: Path, command: str) -> None:
    done = lab(listed, command, "sim-cl")
    assert done.exit_code == 2
    assert "did you mean 'sim-cli'?" in done.output
    assert "Traceback" not in done.output


def test_virtual_target_before_set_up_names_the_cure(listed: Path) -> None:
    done = lab(listed, "shell", "sim-cli", "true")
    assert done.exit_code == 3
    assert "./tools/lab setup" in done.output
    told = lab(listed, "doctor", "sim-cli")
    assert told.exit_code == 4
    assert "./tools/lab setup" in told.output


def test_power_of_a_virtual_target_is_explained(listed: Path) -> None:
    done = lab(listed, "power", "sim-cli", "off")
    assert done.exit_code == 2
    assert "as long as the command that uses it" in done.output


def test_bad_target_list_names_the_line(listed: Path) -> None:
    listed.write_text(listed.read_text().replace("destructive", "destuctive"))
    done = lab(listed, "targets")
    assert done.exit_code == 2
    assert f"{listed}:3" in done.output
    assert "did you mean 'destructive'?" in done.output


@pytest.mark.parametrize(("line", "status", "said"), [("quiet", 0, "pass"), ("BUG: x", 1, "fail")])
def test_replay_judges_again(
    listed: Path, tmp_path: Path, line: str, status: int, said: str
) -> None:
    run = RunDir.create(tmp_path, "sim-cli")
    run.journal.add("test-start", test="t.py::t")
    write_json(run.test("t.py::t") / "window.json", closed(run, QUIET + raw(2, 3, line), 2))
    done = lab(listed, "replay", str(run.path))
    assert (done.exit_code, done.output.split()[0]) == (status, said)
    assert (run.path / "report.html").exists()


def test_replay_of_what_is_no_run(listed: Path, tmp_path: Path) -> None:
    done = lab(listed, "replay", str(tmp_path))
    assert done.exit_code == 2
    assert "not a run directory" in done.output


@pytest.mark.parametrize("module", cli.ELSEWHERE)
def test_commands_are_found_where_they_live(module: str) -> None:
    commands = import_module(module).COMMANDS
    assert sorted(command.name for command in commands) == list(cli.ELSEWHERE[module])
    assert [main.get_command(Context(main), command.name) for command in commands] == [*commands]


@pytest.mark.parametrize("forbidden", [True, False])
def test_its_own_tests_are_compiled_once_wherever_bytecode_may_lie(
    listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forbidden: bool
) -> None:
    given: list[dict[str, str]] = []

    def run(argv: list[str], env: dict[str, str], **rest: object) -> SimpleNamespace:
        given.append(env)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr("harness.cli.subprocess.run", run)
    monkeypatch.delenv("PYTHONPYCACHEPREFIX", raising=False)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1" if forbidden else "")
    assert lab(listed, "test", "--fast").exit_code == 0
    (env,) = given
    assert "PYTHONDONTWRITEBYTECODE" not in env
    wanted = str(tmp_path / "cache/tdrlab/bytecode") if forbidden else None
    assert env.get("PYTHONPYCACHEPREFIX") == wanted


@pytest.mark.parametrize("words", [["--boot", "testcases"], ["--boot=testcases"]])
def test_a_session_gets_the_kernel_of_where_one_stands(
    listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    started: list[list[str]] = []

    def run(argv: list[str], **_: object) -> SimpleNamespace:
        started.append(argv)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr("harness.cli.subprocess.run", run)
    (tmp_path / "testcases").mkdir()
    monkeypatch.chdir(tmp_path)
    assert lab(listed, "run", "--target=sim-cli", *words).exit_code == 0
    assert lab(listed, "run", "--target=sim-cli", *words, "testcases/test_hang.py").exit_code == 0
    (whole, one) = (argv[argv.index("pytest") + 1 :] for argv in started)
    boot = f"--boot={tmp_path}/testcases"
    assert (whole[0], whole[-1]) == ("testcases", boot)
    assert ("testcases" in one, one[-2:]) == (False, [boot, "testcases/test_hang.py"])
