"""The log of a test whose machine died, as its page and the report show it."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.evidence import journal
from harness.evidence.files import write_json
from harness.evidence.rundir import RunDir, Window
from harness.known import KnownIssues
from harness.lab import report
from harness.lab.casefile import Case, case_of
from harness.lab.casepage import view
from harness.lab.past import Result
from harness.lab.timeline import Line, log_of
from harness.live.dut import Dut
from harness.plugin import life
from harness.plugin.stash import KNOWN, VERDICT
from harness.tests.kmsg import raw
from harness.verdict import record, recorded

TEST = "t.py::deadly"
BEFORE = b"[    9.000000][    T1] before the test\r\n"
CONSOLE = (
    b"a bare return\r is no end of a line\r\n"
    b"[   10.000001][    T1] lab: start\r\n[   12.000000][    T1] <b>third</b>\r\n"
    b"[   15.000000][    T1] Kernel panic - not syncing: by hand\r\n"
    b"[   15.000100][    T1] CPU: 0 PID: 1 Comm: bash Not tainted 6.12\r\n"
)
DUMP = (
    b"Panic#1 Part1\n<6>[   14.000000] only in memory\n"
    b"<0>[   15.000000] Kernel panic - not syncing: by hand\n"
)
NEXT = (
    b"[    0.000000][    T0] Linux version 6.12 (a@b)\r\n[   16.000000][    T0] of the next boot\n"
)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    made = RunDir.create(tmp_path, "box")
    made.update(boots=["dead"], target={"name": "box", "driver": "amdgpu"})
    made.journal.add("test-start", test=TEST, boot="dead")
    boot = made.boot("dead")
    before = raw(1, 9_000_000, "before the test")
    lines = [(2, 10_000_001, "lab: start"), (3, 11_000_000, "first"), (6, 13_000_000, "last")]
    (boot / "kmsg").write_bytes(before + b"".join(raw(*line) for line in lines))
    (boot / "console.log").write_bytes(BEFORE + CONSOLE + NEXT)
    (boot / "pstore").mkdir()
    (boot / "pstore" / "dmesg-ramoops-0").write_bytes(DUMP)
    return made


def _judged(run: RunDir, first: int) -> Case:
    window = Window(
        test=TEST, boot_id="dead", first_seq=first, offset=0, body="error",
        died="the target stopped answering", health_before={"debug_locks": 1},
    )  # fmt: skip
    write_json(run.test(TEST) / "window.json", window)
    record(run, window)
    return case_of(run, TEST)


def _shown(case: Case) -> list[tuple[str, str, str]]:
    lines = log_of(case, list(case.log()))
    return [(line.source, line.mark, line.text) for line in lines]


def test_all_that_heard_a_machine_die_tell_of_it(run: RunDir) -> None:
    case = _judged(run, 2)
    (panic,) = [finding for finding in case.verdict.findings if finding.kind == "panic"]
    assert _shown(case) == [
        ("kc", "", "lab: start"),
        ("k", "", "first"),
        ("", "gap", "records 4 to 5 never reached kmsg; known from elsewhere: 1"),
        ("c", "", "<b>third</b>"),
        ("k", "", "last"),
        ("", "gap", "kmsg ends here: what follows reached us on other ways only"),
        ("p", "", "only in memory"),
        ("cp", "report", "Kernel panic - not syncing: by hand"),
        ("c", "report", "CPU: 0 PID: 1 Comm: bash Not tainted 6.12"),
    ]
    heads = [line.first for line in log_of(case, list(case.log())) if line.first]
    assert heads == [panic.signature]


def test_a_test_of_which_kmsg_has_nothing_is_told_by_the_others(run: RunDir) -> None:
    """It died while its window was being opened; what came before is not its doing."""
    assert [text for _, _, text in _shown(_judged(run, 7))] == [
        "kmsg ends here: what follows reached us on other ways only",
        "only in memory",
        "Kernel panic - not syncing: by hand",
        "CPU: 0 PID: 1 Comm: bash Not tainted 6.12",
    ]


def test_the_report_and_the_page_show_it(run: RunDir) -> None:
    case = _judged(run, 2)
    text = report.write(run).read_text()
    assert "&lt;b&gt;third&lt;/b&gt;" in text
    assert "<b>third" not in text
    assert re.search('<span class="report">cp +15.000000  Kernel panic', text)
    result = Result(
        run=run.path.name, path=run.path, night="", target="box", driver="amdgpu", kernel="6.12",
        build="", test=TEST, attempt=1, started=0.0, outcome="incomplete", reason="", seconds=1.0,
        lockdep="blind", fences="none",
    )  # fmt: skip
    shown = view(result)
    assert shown.console == ()
    assert [line.mark for line in shown.log if isinstance(line, Line)].count("report") == 2
    assert "boot-dead/pstore/dmesg-ramoops-0" in [file.name for file in shown.files]
    assert case.window is not None


def test_without_a_console_it_is_judged_by_what_the_machine_had_kept(run: RunDir) -> None:
    """That comes with the next boot: after the first verdict, and before anybody is told."""
    (run.boot("dead") / "console.log").unlink()
    (run.boot("dead") / "pstore" / "dmesg-ramoops-0").rename(run.path / "memory")
    case = _judged(run, 2)
    window = case.window
    assert window is not None
    assert case.verdict.reason == "the target stopped answering"

    def recover() -> None:
        (run.path / "memory").rename(run.boot("dead") / "pstore" / "dmesg-ramoops-0")

    item: Any = SimpleNamespace(
        nodeid=TEST, stash=pytest.Stash(), config=SimpleNamespace(stash=pytest.Stash())
    )
    item.stash[VERDICT], item.config.stash[KNOWN] = case.verdict, KnownIssues()
    life._recover(item, cast("Dut", SimpleNamespace(run=run, recover=recover)), window)
    told = "the target stopped answering; last finding: kernel panic: by hand"
    assert item.stash[VERDICT].reason == told
    assert recorded(run)[TEST].reason == told
    (again,) = [e for e in journal.read(run.journal.path) if e["what"] == "judged-again"]
    assert (again["test"], again["reason"]) == (TEST, told)
