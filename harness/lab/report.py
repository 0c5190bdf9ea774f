"""The report of one run: a page and its counts, from the run directory alone.

Everything shown is untrusted text from a kernel; the template escapes it all.
"""

from __future__ import annotations

import itertools
import logging
from pathlib import Path

import jinja2

from harness import coverage
from harness.account import PERFETTO, PICTURE
from harness.errors import LabError
from harness.evidence import journal
from harness.evidence.files import write_bytes
from harness.evidence.rundir import RunDir, slug
from harness.lab import exports
from harness.lab.casefile import case_of, facts_of
from harness.lab.timeline import Line, log_of
from harness.verdict import OUTCOMES, Verdict, cycle_picture, recorded

__all__ = ["counts", "verdicts", "write"]

log = logging.getLogger(__name__)

# Records of a test that are read, and lines of a dead machine's log that are shown.
_RECORDS, _LAST = 50_000, 200


def verdicts(run: RunDir) -> list[Verdict]:
    """Verdicts in the order the tests ran, an incomplete one for each that never ended."""
    known = recorded(run)
    for test in journal.unfinished(run.journal.path):
        known.setdefault(
            test, Verdict(test, "incomplete", "the harness ended during this test", "blind")
        )
    return list(known.values())


def counts(judged: list[Verdict]) -> dict[str, int]:
    """How many of each outcome, in the order of gravity, zeros left out."""
    tally = {outcome: sum(v.outcome == outcome for v in judged) for outcome in OUTCOMES}
    return {outcome: count for outcome, count in tally.items() if count}


def write(run: RunDir) -> Path:
    """Write report.html into the run, and the same for other tools beside it.

    Raises LabError when the disk refuses."""
    judged = verdicts(run)
    page = (
        _environment()
        .get_template("report.html")
        .render(
            name=run.path.name,
            facts=facts_of(run),
            coverage=coverage.of_run(run),
            verdicts=judged,
            counts=counts(judged),
            pictured=[v.test for v in judged if (run.test(v.test) / PICTURE).exists()],
            cycles=_cycles(run, judged),
            logs=_logs(run, judged),
            troubles=[
                entry
                for entry in journal.read(run.journal.path)
                if entry["what"] in ("connect-failed", "unfit", "late-finding", "test-refused")
            ],
        )
    )
    path = run.path / "report.html"
    write_bytes(path, page.encode("utf-8", "replace"))
    exports.write(run, judged)
    return path


def _cycles(run: RunDir, judged: list[Verdict]) -> dict[tuple[str, str], str]:
    """The pictures of lock cycles, by test and signature of the finding."""
    return {
        (verdict.test, finding.signature): name
        for verdict in judged
        for finding in verdict.findings
        if (run.test(verdict.test) / (name := cycle_picture(finding))).exists()
    }


def _logs(run: RunDir, judged: list[Verdict]) -> dict[str, list[Line]]:
    """What the machines said last that died, out of all that heard them, by test."""
    logs, facts = {}, facts_of(run)
    for verdict in judged:
        if verdict.outcome != "incomplete":
            continue
        try:
            case = case_of(run, verdict.test, facts)
        except LabError as error:  # evidence that is torn must not cost the report
            log.warning("no log of %s: %s", verdict.test, error)
            continue
        logs[verdict.test] = log_of(case, list(itertools.islice(case.log(), _RECORDS)))[-_LAST:]
    return logs


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["slug"] = slug
    environment.globals |= {"PICTURE": PICTURE, "PERFETTO": PERFETTO}
    return environment
