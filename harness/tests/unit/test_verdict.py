"""Verdicts: every way a test can end, judged from files alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness.account import Account
from harness.evidence.files import write_json
from harness.evidence.finding import Finding
from harness.evidence.rundir import RunDir, Window
from harness.findings import FLOOD
from harness.lab import report
from harness.lab.telling import tell
from harness.tests.kmsg import of_dmesg, raw
from harness.tests.unit.test_kernel import CIRCULAR
from harness.tests.unit.test_lockdep import FENCED
from harness.tests.unit.test_uevents import line as uevent
from harness.verdict import Verdict, cycle_picture, judge, record, recorded, rejudge

ARMED = {"debug_locks": 1}
RESET = (
    "amdgpu 0000:00:02.0: amdgpu: ring gfx_0.0.0 timeout, signaled seq=3, emitted seq=4",
    "amdgpu 0000:00:02.0: amdgpu: GPU reset(1) succeeded!",
)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path, "box")


def closed(run: RunDir, stream: bytes, last: int, **facts: Any) -> Window:
    """A window over the whole of `stream`, ended well unless `facts` say otherwise."""
    (run.boot("b") / "kmsg").write_bytes(stream)
    given: dict[str, Any] = {
        "test": "t.py::t", "boot_id": "b", "first_seq": 0, "offset": 0, "last_seq": last,
        "health_before": ARMED, "health_after": ARMED, "body": "passed",
    }  # fmt: skip
    return Window(**{**given, **facts})


QUIET = raw(0, 1, "lab: start") + raw(1, 2, "lab: end")


def test_quiet_log_passes(run: RunDir) -> None:
    verdict = judge(run, closed(run, QUIET, 1))
    assert (verdict.outcome, verdict.reason, verdict.lockdep) == ("pass", "", "armed")


def test_the_same_again_is_one_finding(run: RunDir) -> None:
    stuck = "INFO: task kworker/u8:1:42 blocked for more than 8 seconds."
    stream = b"".join(raw(n, n + 1, stuck, prefix=3) for n in range(3)) + raw(3, 9, "lab: end")
    verdict = judge(run, closed(run, stream, 3))
    (finding,) = verdict.findings
    assert (finding.kind, verdict.outcome) == ("hung_task", "fail")
    assert finding.place is not None
    assert finding.place.first == 0
    assert finding.text.endswith("(3 times in this test)")
    assert "more" not in verdict.reason


def test_splat_fails_a_test_whose_body_passed(run: RunDir) -> None:
    stream = of_dmesg(CIRCULAR)
    last = stream.count(b"\n") - 1
    verdict = judge(run, closed(run, stream, last, health_after={"debug_locks": 0}))
    assert (verdict.outcome, verdict.lockdep) == ("fail", "went off")
    assert "console_lock" in verdict.reason
    (finding,) = verdict.findings
    assert finding.place is not None
    assert (finding.place.boot_id, finding.place.stream) == ("b", "kmsg")
    assert finding.place.first < finding.place.last <= last
    assert "dma_fence_map" in finding.text


@pytest.mark.parametrize("facts", [{}, {"died": "it rebooted"}, {"body": "failed"}])
def test_nothing_counts_once_the_lab_broke_under_the_target(
    run: RunDir, facts: dict[str, Any]
) -> None:
    stream = raw(0, 1, "lab: start") + of_dmesg(CIRCULAR, first=1)
    window = closed(run, stream, 400, trouble="the model of the g33 died", **facts)
    verdict = judge(run, window)
    assert (verdict.outcome, verdict.reason) == ("error", "the model of the g33 died")
    assert "lockdep" in {finding.kind for finding in verdict.findings}
    assert {finding.severity for finding in verdict.findings} == {"note"}


def test_what_the_lab_remarks_is_a_note_and_changes_nothing(run: RunDir) -> None:
    signatures = set()
    for seconds in ("2.3", "0.9"):
        remark = f"the modelled GPU stood still, {seconds} s at most"
        verdict = judge(run, closed(run, QUIET, 1, remarks=[remark]))
        assert verdict.outcome == "pass"
        (found,) = verdict.findings
        assert (found.kind, found.severity, found.title) == ("lab", "note", remark)
        signatures.add(found.signature)
    assert len(signatures) == 1


def test_splat_outside_the_window_is_not_this_tests_doing(run: RunDir) -> None:
    stream = of_dmesg(CIRCULAR) + raw(100, 200_000_000, "start") + raw(101, 200_000_001, "end")
    window = closed(run, stream, 101, first_seq=100, offset=len(of_dmesg(CIRCULAR)))
    assert judge(run, window).outcome == "pass"


@pytest.mark.parametrize(("destructive", "outcome"), [(True, "pass"), (False, "fail")])
def test_reset_fails_only_a_test_that_hangs_nothing(
    run: RunDir, destructive: bool, outcome: str
) -> None:
    stream = b"".join(raw(i, i, line) for i, line in enumerate(RESET))
    assert judge(run, closed(run, stream, 1, destructive=destructive)).outcome == outcome


def test_failed_reset_fails_even_where_resets_are_expected(run: RunDir) -> None:
    stream = raw(0, 0, "amdgpu 0000:00:02.0: amdgpu: GPU reset(1) failed")
    assert judge(run, closed(run, stream, 0, destructive=True)).outcome == "fail"


@pytest.mark.parametrize(
    ("facts", "outcome", "said"),
    [
        ({"health_before": {"debug_locks": 0}}, "blind", "lockdep was off"),
        ({"health_before": {"debug_locks": None}}, "blind", "lockdep was off"),
        ({"health_before": {}}, "blind", "lockdep was off"),
        ({"health_after": {"debug_locks": 0}}, "error", "went off without a report"),
        ({"body": "failed", "body_text": "AssertionError: late"}, "fail", "late"),
        ({"body": "skipped", "body_text": "no display"}, "skip", "no display"),
        ({"body": "xfailed"}, "xfail", ""),
        ({"lab_error": "the link broke"}, "error", "the link broke"),
        ({"died": "the target died: QEMU ended"}, "incomplete", "QEMU ended"),
        ({"last_seq": 9}, "error", "ends before the test did"),
    ],
)
def test_ways_to_end(run: RunDir, facts: dict[str, Any], outcome: str, said: str) -> None:
    verdict = judge(run, closed(run, QUIET, facts.pop("last_seq", 1), **facts))
    assert verdict.outcome == outcome
    assert said in verdict.reason


def test_lost_records_are_never_a_pass(run: RunDir) -> None:
    stream = raw(0, 1, "a") + raw(7, 2, "b")
    verdict = judge(run, closed(run, stream, 7))
    assert verdict.outcome == "error"
    assert verdict.findings[0].place is not None
    assert (verdict.findings[0].place.first, verdict.findings[0].place.last) == (1, 6)


@pytest.mark.parametrize(("same", "outcome"), [(True, "fail"), (False, "pass")])
def test_flood_is_many_lines_of_one_sort(run: RunDir, same: bool, outcome: str) -> None:
    words = ("one", "two", "three")
    stream = b"".join(
        raw(n, n, f"gpu: {'line' if same else words[n % 3]} {n} of {FLOOD}")
        for n in range(FLOOD + 1)
    )
    verdict = judge(run, closed(run, stream, FLOOD))
    assert verdict.outcome == outcome
    if same:
        assert verdict.reason == "the log is flooded with: gpu: line of"


def test_log_read_again_after_a_broken_link_counts_once(run: RunDir) -> None:
    splat = of_dmesg(CIRCULAR)
    last = splat.count(b"\n") - 1
    window = closed(run, splat[: len(splat) // 2].rsplit(b"\n", 1)[0] + b"\n" + splat, last)
    assert [f.kind for f in judge(run, window).findings] == ["lockdep"]


def test_replay_gives_the_recorded_verdict_and_names_the_unfinished(run: RunDir) -> None:
    for test, body in (("t.py::a", "passed"), ("t.py::b", "")):
        run.journal.add("test-start", test=test)
        window = closed(run, QUIET, 1, test=test, body=body)
        write_json(run.test(test) / "window.json", window)
        if body:
            first = record(run, window)
            run.journal.add("test-end", test=test)
    assert recorded(run) == {"t.py::a": first}
    again = list(rejudge(RunDir.open(run.path)))
    assert again[0] == first
    assert (again[1].test, again[1].outcome) == ("t.py::b", "incomplete")


def test_replay_of_a_test_killed_before_its_window_opened(run: RunDir) -> None:
    run.journal.add("test-start", test="t.py::early")
    (verdict,) = rejudge(run)
    assert (verdict.test, verdict.outcome) == ("t.py::early", "incomplete")


def test_verdicts_survive_json(run: RunDir) -> None:
    verdict = judge(run, closed(run, of_dmesg(CIRCULAR), 14, health_after={"debug_locks": 0}))
    assert msgspec.json.decode(msgspec.json.encode(verdict), type=Verdict) == verdict


def test_report_escapes_what_the_kernel_printed(run: RunDir) -> None:
    hostile = "BUG: <script>alert(1)</script>"
    window = closed(run, raw(0, 1, hostile), 0)
    run.journal.add("test-start", test=window.test)
    record(run, window)
    page = report.write(run).read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "1 fail" in page


def test_lock_cycle_is_explained_and_drawn(run: RunDir) -> None:
    stream = of_dmesg("".join(f"[    1.000000] {line}\n" for line in FENCED.split("\n")))
    window = closed(run, stream, stream.count(b"\n") - 1, health_after={"debug_locks": 0})
    run.journal.add("test-start", test=window.test)
    verdict = record(run, window)
    (finding,) = verdict.findings
    assert finding.explanation.startswith("Recovery in foo (drm_sched_job_timedout > ")
    assert "-> fs_reclaim     fb_console_init > device_create" in finding.explanation
    drawn = run.test(window.test) / cycle_picture(finding)
    assert drawn.read_text().count('<rect class="box') == 4
    page = report.write(run).read_text()
    assert f'/{drawn.name}">' in page
    assert "Recovery in foo (drm_sched_job_timedout &gt; " in page
    told = tell(verdict, shown={}, last_words="", evidence=run.path, rerun=["lab"])
    assert told.index("lock cycle:") < told.index("is trying to acquire lock")


def test_a_report_that_is_no_cycle_is_shown_without_a_picture(run: RunDir) -> None:
    text = "WARNING: held lock freed!"
    verdict = record(run, closed(run, raw(0, 1, text), 0, health_after={"debug_locks": 0}))
    (finding,) = verdict.findings
    assert finding.explanation == ""
    assert not list(run.test(verdict.test).glob("*.svg"))


def test_panic_on_the_console_is_told_of_the_test_that_died(run: RunDir) -> None:
    window = closed(run, raw(0, 27_900_000, "lab: start"), 0, died="no answer", last_seq=None)
    (run.path / "boot-b" / "console.log").write_bytes(
        b"[   10.000000][    T1] Kernel panic - not syncing: of an earlier test\r\n"
        b"login: [   27.900000][  T148] lab: start\r\n"
        b"[   28.086861][  T151] Kernel panic - not syncing: sysrq triggered crash\r\n"
        b"[   28.111037][  T151] RIP: 0033:0x7ff7d523d38f\r\n"
        b"[    0.000000][    T0] Linux version 6.12\r\n"
        b"[   28.500000][    T9] BUG: of the next boot\r\n"
    )
    verdict = judge(run, window)
    (finding,) = verdict.findings
    assert verdict.outcome == "incomplete"
    assert finding.title == "kernel panic: sysrq triggered crash"
    assert finding.title in verdict.reason
    assert finding.place is not None
    assert (finding.place.stream, finding.place.first, finding.place.last) == ("console.log", 3, 4)


def test_what_a_kernel_said_does_not_speak_to_the_terminal(run: RunDir) -> None:
    window = closed(run, raw(0, 27_900_000, "lab: start"), 0, died="gone", last_seq=None)
    (run.path / "boot-b" / "console.log").write_bytes(
        b"[   28.000000][    T1] Kernel panic - not syncing: \x1b]0;mine\x07\xc2\x9b2J\r\n"
    )
    told = tell(
        record(run, window), shown={}, last_words="\x1b[2J", evidence=run.path, rerun=["lab"]
    )
    assert "\\x1b]0;mine\\x07\\x9b2J" in told
    assert told.replace("\n", "").isprintable()


OLD_HEAD = b"[  800.000000][    T7] BUG: of the boot before\r\n"
BOOTED = (
    b"[    0.000000][    T0] Linux version 6.12\r\n[   20.000000][    T1] Run /init as init\r\n"
)
DIED = b"[  100.500000][    T9] Kernel panic - not syncing: really\r\n"
REALLY = ["kernel panic: really"]


@pytest.mark.parametrize(
    ("console", "told"),
    [
        pytest.param(OLD_HEAD + BOOTED + DIED, REALLY, id="the old boot's end comes first"),
        pytest.param(OLD_HEAD + BOOTED, [], id="and ours said nothing"),
        pytest.param(OLD_HEAD + DIED, REALLY, id="of ours there is the panic alone"),
        pytest.param(DIED + BOOTED.replace(b"20.", b"21."), REALLY, id="and the next boot"),
    ],
)
def test_last_words_are_of_the_boot_that_died(run: RunDir, console: bytes, told: list[str]) -> None:
    stream = raw(0, 20_000_000, "Run /init as init") + raw(1, 100_000_000, "lab: start")
    window = closed(run, stream, 1, died="no answer", last_seq=None)
    (run.path / "boot-b" / "console.log").write_bytes(console)
    assert [finding.title for finding in judge(run, window).findings] == told


TIMED_OUT = "i915 0000:00:02.0: [drm] *ERROR* flip_done timed out"
IN_VAIN = "i915 0000:00:02.0: [drm] *ERROR* Failed to reset chip"


BEGUN = "i915 0000:00:02.0: [drm] Resetting chip for stopped heartbeat"
DONE = "amdgpu 0000:00:02.0: amdgpu: GPU reset(1) succeeded!"
NEVER, LATE = "is never done", "was not done in time"


@pytest.mark.parametrize(
    ("before", "said"),
    [
        ((), LATE),
        ((BEGUN,), LATE),
        ((BEGUN, IN_VAIN), f"after a failed reset a commit {NEVER}"),
        ((DONE,), f"after a reset a commit {NEVER}"),
        ((IN_VAIN, DONE), f"after a reset a commit {NEVER}"),
        ((DONE, IN_VAIN), f"after a failed reset a commit {NEVER}"),
    ],
)
def test_a_commit_that_is_never_done_counts_after_a_reset(
    run: RunDir, before: tuple[str, ...], said: str
) -> None:
    texts = (*before, TIMED_OUT, "lab: end")
    stream = b"".join(raw(n, n * 1_000_000, text, prefix=3) for n, text in enumerate(texts))
    verdict = judge(run, closed(run, stream, len(texts) - 1, destructive=True))
    [finding] = [f for f in verdict.findings if f.kind == "commit-timeout"]
    assert finding.severity == ("note" if said == LATE else "fail")
    assert said in finding.title
    assert finding.title.endswith(": flip_done timed out")
    assert finding.text == TIMED_OUT
    assert verdict.outcome == ("pass" if said == LATE else "fail")


@pytest.mark.parametrize(
    ("told", "device", "outcome"),
    [
        (8, "0000:00:02.0", "fail"),
        (8, "0000:03:00.0", "pass"),  # another card
        (20, "0000:00:02.0", "pass"),  # after the commit
    ],
)
def test_the_end_of_a_reset_may_be_told_by_a_uevent(
    run: RunDir, told: int, device: str, outcome: str
) -> None:
    card = {"driver": "i915", "pci": device, "name": "card0"}
    run.update(target={"driver": "i915"}, cards=[card])
    stream = raw(0, 1_000_000, "lab: start") + raw(1, 12_000_000, TIMED_OUT, prefix=3)
    stream += raw(2, 13_000_000, "lab: end")
    # The clocks of the uevents and of the log are 0.5 s apart.
    event = uevent(told * 1_000_000_000 + 500_000_000, ERROR="0")
    (run.boot("b") / "uevents.jsonl").write_bytes(event)
    window = closed(run, stream, 2, destructive=True, mono=1_500_000_000)
    assert judge(run, window).outcome == outcome


def test_a_commit_behind_a_deadlock_is_that_findings(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = Finding("deadlock", "fail", "display reset held up", "0123456789ab")
    account = Account("accounted", findings=(stuck,))
    monkeypatch.setattr("harness.verdict.open_account", lambda *_: account)
    stream = raw(0, 1, DONE, prefix=3) + raw(1, 12, TIMED_OUT, prefix=3) + raw(2, 13, "lab: end")
    findings = judge(run, closed(run, stream, 2, destructive=True)).findings
    assert [f.severity for f in findings if f.kind == "commit-timeout"] == ["note"]
