"""A run's verdicts for other tools: JUnit XML for a CI, one JSON for whatever else.

JUnit has no schema of its own; this is what Jenkins' junit-10.xsd, GitLab and pytest agree upon.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import Any
from xml.etree import ElementTree as ET

import msgspec

from harness.evidence import journal
from harness.evidence.files import write_bytes
from harness.evidence.rundir import RunDir
from harness.kernel import lockdep
from harness.kernel.cycle import cycle_of
from harness.lab.casefile import facts_of, kernel_of
from harness.verdict import Verdict

__all__ = ["JSON", "JUNIT", "as_json", "as_junit", "write"]

JUNIT, JSON = "junit.xml", "results.json"
"""What `write` leaves in a run directory."""

# Of results.json: grows when a field changes its meaning, not when one is added.
VERSION = 1
# Of the evidence in one testcase, in characters: CI servers keep it in memory.
EXCERPT = 20_000
# What XML 1.0 cannot hold, even when escaped.
_UNWRITABLE = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# The kernel's fault, and the lab's: a CI counts them apart.
_FAILURES, _ERRORS = ("fail", "incomplete"), ("error", "blind")
_SKIPS = ("skip", "xfail")


def write(run: RunDir, judged: Sequence[Verdict]) -> None:
    """Write junit.xml and results.json into the run.  Raises LabError when the disk refuses."""
    write_bytes(run.path / JUNIT, as_junit(run, judged))
    write_bytes(run.path / JSON, as_json(run, judged))


def as_json(run: RunDir, judged: Sequence[Verdict]) -> bytes:
    """The run in one object: what ran where, each verdict with its findings and lock cycles."""
    facts = facts_of(run)
    value = {
        "version": VERSION,
        "run": run.path.name,
        "started": _started(run),
        "target": facts.get("target", {}).get("name", ""),
        "driver": facts.get("target", {}).get("driver", ""),
        "kernel": dataclasses.asdict(kernel_of(facts)),
        "cards": facts.get("cards", []),
        "boots": facts.get("boots", []),
        "command": facts.get("command", ""),
        "counts": {o: sum(v.outcome == o for v in judged) for o in (*_FAILURES, *_ERRORS, *_SKIPS)}
        | {"pass": sum(v.outcome == "pass" for v in judged)},
        "tests": [_test(run, verdict) for verdict in judged],
    }
    return msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n"


def _test(run: RunDir, verdict: Verdict) -> dict[str, Any]:
    built: dict[str, Any] = msgspec.to_builtins(verdict)
    for finding, told in zip(verdict.findings, built["findings"], strict=True):
        report = lockdep.parse(finding.text.split("\n")) if finding.explanation else None
        cycle = cycle_of(report) if report else None
        told["cycle"] = list(cycle.classes) if cycle else []
    return {**built, "directory": f"tests/{run.test(verdict.test).name}"}


def as_junit(run: RunDir, judged: Sequence[Verdict]) -> bytes:
    """One testsuite for the run.  Its tests' class names begin with the target's name: a CI
    that follows a test over many builds must not mix two machines."""
    facts = facts_of(run)
    target = str(facts.get("target", {}).get("name") or run.path.name)
    suite = ET.Element(
        "testsuite",
        _clean(
            name=target,
            tests=str(len(judged)),
            failures=str(sum(v.outcome in _FAILURES for v in judged)),
            errors=str(sum(v.outcome in _ERRORS for v in judged)),
            skipped=str(sum(v.outcome in _SKIPS for v in judged)),
            time=f"{sum(v.seconds for v in judged):.3f}",
            # ISO 8601 without a zone, as Ant wrote it: UTC.
            timestamp=_started(run)[:19],
            hostname=target,
        ),
    )
    properties = ET.SubElement(suite, "properties")
    for name, value in _properties(run, facts):
        ET.SubElement(properties, "property", _clean(name=name, value=value))
    for verdict in judged:
        suite.append(_testcase(run, target, verdict))
    suites = ET.Element("testsuites")
    suites.append(suite)
    ET.indent(suites)
    return bytes(ET.tostring(suites, encoding="utf-8", xml_declaration=True)) + b"\n"


def _properties(run: RunDir, facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    kernel = kernel_of(facts)
    yield "run", run.path.name
    yield "driver", str(facts.get("target", {}).get("driver", ""))
    yield "kernel", kernel.release
    yield "kernel.config", kernel.config_hash
    yield "kernel.cmdline", kernel.cmdline


def _testcase(run: RunDir, target: str, verdict: Verdict) -> ET.Element:
    module, _, name = verdict.test.partition("::")
    words = module.removesuffix(".py").replace("/", ".")
    case = ET.Element(
        "testcase",
        _clean(
            classname=f"{target}.{words}",
            name=name.replace("::", ".") or words,
            time=f"{verdict.seconds:.3f}",
        ),
    )
    tag = {
        **dict.fromkeys(_FAILURES, "failure"),
        **dict.fromkeys(_ERRORS, "error"),
        **dict.fromkeys(_SKIPS, "skipped"),
    }.get(verdict.outcome)
    if tag:
        worst = next((f for f in verdict.findings if f.severity == "fail"), None)
        kind = worst.kind if worst and tag == "failure" else verdict.outcome
        told = ET.SubElement(case, tag, _clean(type=kind, message=verdict.reason))
        told.text = _writable(_evidence(run, verdict)) if tag != "skipped" else None
    return case


def _evidence(run: RunDir, verdict: Verdict) -> str:
    parts = [f"evidence: {run.path.name}/tests/{run.test(verdict.test).name}"]
    for finding in verdict.findings:
        if finding.severity != "note":
            head = f"{finding.kind} [{finding.signature}] {finding.title}"
            parts.append("\n\n".join(part for part in (head, finding.explanation) if part))
            parts.append(finding.text)
    text = "\n\n".join(part for part in parts if part)
    return text if len(text) <= EXCERPT else f"{text[:EXCERPT]}\n[cut here]"


def _started(run: RunDir) -> str:
    """When the run began, ISO 8601 in UTC; "" where its journal does not say."""
    return next((str(entry.get("time", "")) for entry in journal.read(run.journal.path)), "")


def _clean(**attributes: str) -> dict[str, str]:
    return {name: _writable(value) for name, value in attributes.items()}


def _writable(text: str) -> str:
    return _UNWRITABLE.sub("\ufffd", text)
