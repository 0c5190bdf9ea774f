"""known-issues.toml: what an entry excuses, what it does not, and how a wrong one is told."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UsageError
from harness.evidence.finding import Finding
from harness.evidence.rundir import RunDir, Window
from harness.inventory import load as load_targets
from harness.known import Issue, KnownIssues, load, of_list
from harness.lab import telling
from harness.tests.inner import ROOT
from harness.tests.kmsg import of_dmesg, raw
from harness.tests.unit.test_kernel import CIRCULAR
from harness.tests.unit.test_verdict import ARMED, QUIET, closed
from harness.verdict import judge, record

TODAY = date(2027, 1, 1)
ENTRY = """\
[issues.stuck]
title = "the console is locked in recovery"
state = "fail"
bug = "https://bugs.example/7"
expires = 2027-06-30
"""
SIGNED = ENTRY + 'signature = "0123456789ab"\n'


def loaded(tmp_path: Path, text: str) -> KnownIssues:
    path = tmp_path / "known-issues.toml"
    path.write_text(text)
    return load(path, ["sim-navi", "gen3-box"], TODAY)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("[issues.a\n", 1, "not TOML"),
        (SIGNED.replace("bug", "bugs"), 4, "unknown key 'bugs' (did you mean 'bug'?)"),
        (SIGNED.replace("expires = 2027-06-30\n", ""), 1, "the key 'expires' is missing"),
        (SIGNED.replace('"fail"', '"fails"'), 3, "got 'fails' (did you mean 'fail'?)"),
        (SIGNED.replace("89ab", "89xy"), 6, "expected a finding's signature"),
        (SIGNED + 'also = ["0123456789"]\n', 7, "expected a finding's signature"),
        (SIGNED + 'kernel = "6.12"\n', 7, 'expected kernel versions, as ">= 6.1, < 6.13"'),
        (SIGNED + 'target = "sim-nav"\n', 7, "no target 'sim-nav' (did you mean 'sim-navi'?)"),
        (SIGNED.replace("https://bugs.example/7", "doc/no.md"), 4, "is no URL and no file here"),
        (ENTRY, 1, "has neither a signature nor a test"),
        (ENTRY.replace('"fail"', '"ignore"') + 'test = "t.py::t"\n', 3, "ignores whatever"),
        (ENTRY + 'also = ["0123456789ab"]\ntest = "t.py::t"\n', 6, "no signature beside which"),
        (SIGNED + 'says = "late"\n', 7, "names no test that says it"),
        (SIGNED + 'says = "(late"\ntest = "t.py::t"\n', 7, "is no regular expression"),
        (SIGNED + SIGNED.replace(".stuck", ".again"), 7, "excuses the very same as 'stuck'"),
    ],
)
def test_wrong_entry_is_told_by_line(tmp_path: Path, text: str, line: int, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        loaded(tmp_path, text)
    assert said in caught.value.what
    assert caught.value.where == f"{tmp_path / 'known-issues.toml'}:{line}"
    assert caught.value.cure


def test_file_that_was_asked_for_must_be_there(tmp_path: Path) -> None:
    targets = tmp_path / "targets.toml"
    targets.write_text('[targets.a]\ndriver = "amdgpu"\nvm = { gpu = "ati-vga" }\n')
    listed = load_targets(targets)
    assert of_list(listed).issues == {}
    with pytest.raises(UsageError, match="cannot read the known issues"):
        of_list(listed, tmp_path / "mine.toml")
    (tmp_path / "known-issues.toml").write_text(SIGNED)
    assert list(of_list(listed).issues) == ["stuck"]


def test_shipped_file_is_right() -> None:
    assert of_list(load_targets(ROOT / "targets.toml")).stale() == []


def issue(**given: Any) -> Issue:
    return Issue(title="a known thing", state=given.pop("state", "fail"), bug="https://b",
                 expires=given.pop("expires", TODAY), **given)  # fmt: skip


@pytest.mark.parametrize(
    ("given", "concerned"),
    [
        ({}, True),
        ({"test": "t.py::t"}, True),
        ({"test": "t.py::t[rcs0]"}, True),
        ({"test": "t.py::t[*0]"}, True),
        ({"test": "*::t"}, True),
        ({"test": "t.py::t[bcs0]"}, False),
        ({"test": "t.py::"}, False),
        ({"test": "t?py::t"}, False),
        ({"target": "box"}, True),
        ({"target": "other"}, False),
        ({"driver": "i915"}, True),
        ({"driver": "xe"}, False),
        ({"kernel": ">= 6.1, < 6.13"}, True),
        ({"kernel": "<= 6.12"}, True),
        ({"kernel": "== 6.12"}, True),
        ({"kernel": "== 6.12.117"}, True),
        ({"kernel": "> 6.12"}, False),
        ({"kernel": "< 6.12.100"}, False),
        ({"kernel": ">= 6.13"}, False),
        ({"kernel": "< 7"}, True),
    ],
)
def test_entry_concerns_what_it_names(given: dict[str, str], concerned: bool) -> None:
    known = KnownIssues({"one": issue(signature="0123456789ab", **given)}, TODAY)
    scope = known.scope(test="t.py::t[rcs0]", target="box", driver="i915", kernel="6.12.117-lab")
    finding = Finding("lockdep", "fail", "a title", "0123456789ab")
    assert (scope.of(finding) == "one") is concerned


def test_one_fault_may_show_in_several_ways() -> None:
    other, third = "ba9876543210", "1-ba9876543210"
    one = issue(signature="0123456789ab", also=(other, third), test="t.py::t")
    scope = KnownIssues({"one": one}, TODAY).scope(test="t.py::t", target="", driver="", kernel="")
    signatures = ("0123456789ab", other, third)
    shown = [Finding("lockdep", "fail", "a title", signature) for signature in signatures]
    assert [scope.of(finding, shown) for finding in shown] == ["one", "one", "one"]
    # What the fault brings about may have other causes, where it itself was not found.
    assert [scope.of(finding, shown[1:]) for finding in shown[1:]] == ["", ""]


def test_unknown_kernel_is_in_no_range() -> None:
    known = KnownIssues({"one": issue(signature="0123456789ab", kernel=">= 1")}, TODAY)
    scope = known.scope(test="t", target="", driver="", kernel="")
    assert scope.of(Finding("lockdep", "fail", "a title", "0123456789ab")) == ""


# -- what the verdict makes of it ------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    made = RunDir.create(tmp_path, "box")
    made.update(
        target={"name": "box", "driver": "amdgpu"}, kernel={"uname": {"release": "6.12.117-lab"}}
    )
    return made


def splat(run: RunDir, **facts: Any) -> tuple[Window, str]:
    """A window with a lockdep report in it, and that report's signature."""
    stream = of_dmesg(CIRCULAR)
    off = {"health_after": {"debug_locks": 0}}
    window = closed(run, stream, stream.count(b"\n") - 1, **{**off, **facts})
    (finding,) = judge(run, window).findings
    return window, finding.signature


def test_known_finding_is_expected_and_stays_on_disk(run: RunDir) -> None:
    window, signature = splat(run)
    known = KnownIssues({"console": issue(signature=signature)}, TODAY)
    verdict = record(run, window, known)
    assert (verdict.outcome, verdict.known, verdict.lockdep) == ("xfail", ("console",), "went off")
    assert "known issue console: a known thing" in verdict.reason
    assert "masked" in verdict.reason
    assert [f.severity for f in verdict.findings] == ["fail"]
    unexcused = judge(run, window)
    assert (run.test(window.test) / "findings.json").read_text().count(signature) == 1
    assert (unexcused.outcome, unexcused.findings) == ("fail", verdict.findings)


def test_another_finding_beside_a_known_one_fails(run: RunDir) -> None:
    window, signature = splat(run)
    stream = of_dmesg(CIRCULAR)
    last = stream.count(b"\n")
    worse = raw(last, 300_000_000, "amdgpu 0000:00:02.0: amdgpu: GPU reset(1) failed")
    window = closed(run, stream + worse, last, health_after={"debug_locks": 0})
    verdict = judge(run, window, KnownIssues({"console": issue(signature=signature)}, TODAY))
    assert verdict.outcome == "fail"
    assert verdict.reason == "reset-failed: amdgpu reset without a hang: GPU reset failed"
    assert verdict.known == ("console",)


def test_expired_entry_excuses_nothing_and_is_pointed_out(run: RunDir) -> None:
    window, signature = splat(run)
    known = KnownIssues({"console": issue(signature=signature, expires=date(2026, 12, 31))}, TODAY)
    verdict = judge(run, window, known)
    assert (verdict.outcome, verdict.known) == ("fail", ())
    assert "known issue console expired on 2026-12-31" in verdict.reason
    (line,) = known.stale()
    assert "console" in line
    assert "https://b" in line


def test_ignored_finding_counts_for_nothing(run: RunDir) -> None:
    window, signature = splat(run)
    known = KnownIssues({"console": issue(signature=signature, state="ignore")}, TODAY)
    verdict = judge(run, window, known)
    assert (verdict.outcome, verdict.known) == ("pass", ())
    assert [f.signature for f in verdict.findings] == [signature]


FAILED = {"body": "failed", "body_text": "AssertionError: late"}


@pytest.mark.parametrize(
    ("given", "outcome"),
    [
        ({"test": "t.py::t"}, "xfail"),
        ({"test": "t.py::other"}, "fail"),
        # A signature that was not found excuses nothing, whatever else fails there.
        ({"test": "t.py::t", "signature": "0123456789ab"}, "fail"),
    ],
)
def test_what_the_test_itself_says_is_excused_by_an_entry_that_names_it(
    run: RunDir, given: dict[str, str], outcome: str
) -> None:
    verdict = judge(
        run, closed(run, QUIET, 1, **FAILED), KnownIssues({"one": issue(**given)}, TODAY)
    )
    assert verdict.outcome == outcome


def test_known_finding_does_not_excuse_the_body_of_any_test(run: RunDir) -> None:
    window, signature = splat(run, **FAILED)
    anywhere = KnownIssues({"console": issue(signature=signature)}, TODAY)
    assert (judge(run, window, anywhere).outcome, judge(run, window, anywhere).reason) == (
        "fail", "AssertionError: late",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("says", "outcome"),
    [
        ("AssertionError: late", "xfail"),
        ("^Assert.*(soon|late)$", "xfail"),
        ("early", "fail"),
        ("", "fail"),
    ],
)
def test_known_finding_excuses_of_the_body_what_the_entry_says(
    run: RunDir, says: str, outcome: str
) -> None:
    window, signature = splat(run, **FAILED)
    here = issue(signature=signature, test="t.py::t", says=says)
    assert judge(run, window, KnownIssues({"console": here}, TODAY)).outcome == outcome
    alone = KnownIssues({"console": issue(test="t.py::t", says=says)}, TODAY)
    quiet = judge(run, closed(run, QUIET, 1, **FAILED), alone)
    assert quiet.outcome == ("fail" if says == "early" else "xfail")


def test_expired_entry_is_pointed_out_where_the_test_itself_fails(run: RunDir) -> None:
    old = {"expires": date(2026, 12, 31), "test": "t.py::t", "signature": "0123456789ab"}
    window = closed(run, QUIET, 1, **FAILED)
    reason = judge(run, window, KnownIssues({"one": issue(**old, says="late")}, TODAY)).reason
    assert reason == "AssertionError: late (known issue one expired on 2026-12-31)"
    reason = judge(run, window, KnownIssues({"one": issue(**old, says="early")}, TODAY)).reason
    assert reason == "AssertionError: late"


@pytest.mark.parametrize(
    ("facts", "outcome"),
    [
        ({"lab_error": "the link broke"}, "error"),
        ({"died": "the target died"}, "incomplete"),
        ({"last_seq": 999}, "error"),
    ],
)
def test_labs_troubles_and_missing_evidence_are_not_excused(
    run: RunDir, facts: dict[str, Any], outcome: str
) -> None:
    window, signature = splat(run)
    for name, value in facts.items():
        setattr(window, name, value)
    assert judge(run, window, KnownIssues({"a": issue(signature=signature)}, TODAY)).outcome == (
        outcome
    )


def test_known_failure_that_passes_is_reported_as_fixed(run: RunDir) -> None:
    known = KnownIssues(
        {
            "one": issue(test="t.py::t"),
            "sometimes": issue(test="t.py::t", state="flake", signature="0123456789ab"),
            "elsewhere": issue(test="t.py::other"),
        },
        TODAY,
    )
    verdict = judge(run, closed(run, QUIET, 1), known)
    assert (verdict.outcome, verdict.fixed) == ("pass", ("one",))
    assert "known issue one did not show" in verdict.reason
    assert telling.of_issues([verdict]) == ["fixed?   one did not show in t.py::t"]
    blind = closed(run, QUIET, 1, health_before={"debug_locks": 0}, health_after=ARMED)
    assert judge(run, blind, known).fixed == ()


def test_issues_of_a_run_are_counted(run: RunDir) -> None:
    window, signature = splat(run)
    verdict = judge(run, window, KnownIssues({"console": issue(signature=signature)}, TODAY))
    assert telling.of_issues([verdict, verdict]) == ["known    console in 2 tests"]


WAITED = "AssertionError: the fence did not signal within 40 s"


@pytest.mark.parametrize(
    ("how", "signature", "text", "named"),
    [
        ("modeset", "2f3f15c80e5e", WAITED, "i915-reset-behind-modeset"),
        ("flip", "e5372cdb1058", WAITED, "i915-reset-behind-flip"),
        ("flip", "e5372cdb1058", "AssertionError: the CRTC has no mode after the reset", ""),
        ("modeset", "000000000000", WAITED, ""),
    ],
)
def test_shipped_entries_excuse_what_a_deadlock_makes_a_test_say(
    how: str, signature: str, text: str, named: str
) -> None:
    scope = of_list(load_targets(ROOT / "targets.toml")).scope(
        test=f"testcases/test_deadlock.py::test_recovery_passes_a_waiting_{how}",
        target="sim-gen3", driver="i915", kernel="6.12.117-lab",
    )  # fmt: skip
    finding = Finding("deadlock", "fail", "held up", signature)
    assert (scope.of(finding), scope.of_body(text, [finding])) == (
        named or scope.of(finding),
        named,
    )
