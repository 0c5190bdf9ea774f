"""What a bisect found: for people, as a picture, and as a regression mail.

Everything comes from the bisect's folder; commit titles and kernel text are data.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from harness.bisect.bisection import Attempt, Bisection, tallies
from harness.bisect.picture import picture
from harness.bisect.search import Answer
from harness.errors import HarnessError
from harness.evidence.files import write_bytes
from harness.evidence.rundir import RunDir
from harness.lab.redact import Redactor, of_facts
from harness.verdict import recorded

__all__ = ["mail", "text", "write"]

_BAR = 24
# Rows of the plot.
_ROWS = 24
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def write(
    bisection: Bisection, answer: Answer, secrets: Iterable[tuple[str, str]] = ()
) -> list[Path]:
    """report.txt, posterior.svg and mail.txt into its folder; `secrets` as a Redactor's, for the
    mail.  Raises LabError."""
    made = {
        "report.txt": text(bisection, answer),
        "posterior.svg": picture(bisection, answer),
        "mail.txt": mail(bisection, answer, secrets),
    }
    for name, content in made.items():
        write_bytes(bisection.folder / name, content.encode("utf-8", "replace"))
    return [bisection.folder / name for name in made]


def text(bisection: Bisection, answer: Answer) -> str:
    """The whole of it, for a terminal."""
    lines = [
        *_verdict(bisection, answer), "", *_rates(bisection, answer), "",
        *_plot(bisection, answer), "", *_runs(bisection),
    ]  # fmt: skip
    return _CONTROL.sub("?", "\n".join(lines)) + "\n"


def _verdict(bisection: Bisection, answer: Answer) -> Iterator[str]:
    history = bisection.setting.history
    if answer.sure and len(answer.members) == 1:
        yield f"{history.commits[answer.members[0]].id} is the first bad commit"
        yield f"    {history.commits[answer.members[0]].title}"
        yield f"confidence {answer.chance:.2%}"
        return
    if answer.sure:
        yield f"the first bad commit is one of {len(answer.members)}, which no run tells apart"
        yield f"(no kernel between them gave a verdict); together {answer.chance:.2%}"
    else:
        yield f"not found: {bisection.stopped or 'the bisect is not over'}"
        yield f"these {len(answer.members)} commits have {answer.chance:.2%} together"
    for one in sorted(answer.members, key=lambda one: -answer.chances[one])[:_ROWS]:
        yield f"    {answer.chances[one]:7.2%}  {history.label(one)}"


def _rates(bisection: Bisection, answer: Answer) -> Iterator[str]:
    middle, low, high = answer.rate
    ran = [one for one in bisection.attempts if one.kind in ("bad", "good")]
    vain = len(bisection.attempts) - len(ran)
    wanted = bisection.wanted
    yield f"finding    {wanted.signature} {wanted.title}" if wanted else "finding    never seen"
    yield f"test       {bisection.setting.test} on {bisection.setting.target}"
    yield f"runs       {len(ran)} with a verdict, {vain} attempts without"
    if bisection.setting.per_boot > 1:
        boots = len({one.run for one in bisection.attempts if one.run})
        why = "; used ones show it less, and do not count" if bisection.fresh_only else ""
        yield f"boots      {boots}, of up to {bisection.setting.per_boot} runs{why}"
    yield f"flakiness  a bad kernel shows it in {middle:.0%} of its runs ({low:.0%} to {high:.0%})"


def _plot(bisection: Bisection, answer: Answer) -> Iterator[str]:
    history = bisection.setting.history
    tried = dict(tallies(bisection.attempts))
    shown = set(sorted(range(len(history)), key=lambda one: -answer.chances[one])[:_ROWS])
    shown |= set(tried)
    yield "commits, newest first (those tried, and the likeliest):"
    top = max(float(answer.chances.max()), 1e-9)
    for one in sorted(shown, reverse=True):
        bar = "#" * round(_BAR * float(answer.chances[one]) / top)
        what = ", ".join(f"{count} {kind}" for kind, count in tried.get(one, {}).items())
        label = f"{history.label(one)[:60]:60} {what}".rstrip()
        yield f"  {answer.chances[one]:7.2%} {bar:{_BAR}} {label}"


def _runs(bisection: Bisection) -> Iterator[str]:
    yield "every attempt, in order:"
    for number, one in enumerate(bisection.attempts, 1):
        label = bisection.setting.history.commits[one.commit].id[:12]
        builds = " ".join(f"{name}:{build[:12]}" for name, build in one.builds.items())
        where = bisection.folder / one.run if one.run else "-"
        yield f"  {number:3} {label} {one.kind:11} {one.seconds:5.0f} s  {one.reason[:100]}"
        yield f"      {where} {one.kernel} {builds}".rstrip()


def mail(bisection: Bisection, answer: Answer, secrets: Iterable[tuple[str, str]] = ()) -> str:
    """Ready for a regression report, with the line regzbot looks for
    (Documentation/process/handling-regressions.rst); all but its addresses and the commits without
    `secrets`, those of the run that is quoted, and what looks like one."""
    history, setting = bisection.setting.history, bisection.setting
    wanted, (middle, low, high) = bisection.wanted, answer.rate
    bad = next((one for one in bisection.attempts if one.kind == "bad"), None)
    culprit = history.commits[answer.members[0]] if len(answer.members) == 1 else None
    ran_bad = _run_of(bisection, bad) if bad is not None else None
    redactor = Redactor([*secrets, *(of_facts(_facts(ran_bad)) if ran_bad else ())])
    what = redactor.text(wanted.title if wanted else setting.test)
    head = [f"Subject: [REGRESSION] {what}"]
    if culprit is not None and answer.sure:
        head += [f"To: {culprit.author}", "Cc: regressions@lists.linux.dev"]
        said = f'a bisect ends at commit {culprit.id[:12]} ("{culprit.title}")'
        told = [f"#regzbot introduced: {culprit.id}"]
    else:
        oldest = setting.good[0]
        said = f"a bisect leaves {len(answer.members)} commits"
        told = [f"#regzbot introduced: {oldest}..{setting.bad}", ""]
        told += [
            f"  {answer.chances[one]:6.1%} {history.label(one)}" for one in answer.members[:10]
        ]
    ran = [one for one in bisection.attempts if one.kind in ("bad", "good")]
    flaky = (
        "It shows at every run."
        if low > 0.9
        else f"It is flaky: a bad kernel shows it in about {middle:.0%} of its runs "
        f"({low:.0%} to {high:.0%})."
    )
    body = (
        f"Since {', '.join(map(_short, setting.good))} the test {setting.test} finds on "
        f"{setting.target}: {what}. Between that and {_short(setting.bad)}, {said}, with a "
        "confidence of "
        f"{answer.chance:.1%} after {len(ran)} runs. {flaky}"
    )
    body = redactor.text(body)
    lines = [*head, "", *textwrap.wrap(body, 72, break_on_hyphens=False), "", *told, ""]
    lines += ["Runs by commit, oldest first:"]
    for one, tally in tallies(bisection.attempts):
        counts = ", ".join(f"{count} {kind}" for kind, count in tally.items())
        lines.append(f"  {history.label(one)[:52]:52} {counts}")
    if bad is not None:
        quoted = [f"The first report seen ({bad.kernel}):", "", *_evidence(bisection, ran_bad)]
        lines += ["", *redactor.lines(quoted)]
    return _CONTROL.sub("?", "\n".join(lines)) + "\n"


def _short(revision: str) -> str:
    """As people name it."""
    return revision[:12] if re.fullmatch("[0-9a-f]{40}", revision) else revision


def _run_of(bisection: Bisection, bad: Attempt) -> RunDir | None:
    """Its run directory; None where it is gone, or not ours to open."""
    made = sorted((bisection.folder / bad.run).glob("*/journal.jsonl"))
    try:
        return RunDir.open(made[0].parent) if made else None
    except HarnessError:
        return None


def _facts(run: RunDir) -> dict[str, Any]:
    try:
        return run.facts()
    except HarnessError:
        return {}


def _evidence(bisection: Bisection, run: RunDir | None) -> Iterator[str]:
    """The kernel's own text of the finding, as it was recorded."""
    if run is None:
        yield "  (its evidence is gone)"
        return
    try:
        verdicts = recorded(run).values()
    except HarnessError as error:
        yield f"  (its evidence cannot be read: {error})"
        return
    for verdict in verdicts:
        found = [f for f in verdict.findings if bisection.wanted and bisection.wanted.is_it(f)]
        for finding in found[:1]:
            yield from (finding.text or finding.title).splitlines()[:120]
        if not found and verdict.outcome == "fail":
            yield verdict.reason
