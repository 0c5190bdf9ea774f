"""`lab mail`, `bundle`, `export`, `report`: what is handed to others, and what is looked at."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import click

from harness import inventory
from harness.errors import UsageError
from harness.evidence.finding import Finding
from harness.evidence.rundir import RunDir
from harness.inventory import Inventory
from harness.lab import bundle as bundles
from harness.lab import exports, mail, redact, report, site
from harness.lab.casefile import Case, open_case
from harness.lab.history import History, default_url
from harness.lab.redact import Redactor

__all__ = ["COMMANDS"]


@click.command("mail")
@click.argument("path", type=click.Path(path_type=Path), metavar="RUN/TEST")
@click.option("--finding", "signature", metavar="SIGNATURE", help="Which (default: the first).")
@click.pass_context
def mail_command(ctx: click.Context, path: Path, signature: str | None) -> None:
    """A finding as a mail to dri-devel: plain text, 72 columns, secrets taken out."""
    case = open_case(path)
    finding = _finding(case, signature)
    since = _since(case, finding)
    click.echo(mail.compose(case, finding, since, _redactor(ctx, case)), nl=False)


@click.command("bundle")
@click.argument("path", type=click.Path(path_type=Path), metavar="RUN/TEST")
@click.option("-o", "out", type=click.Path(path_type=Path), help="Default: TEST.tar.zst here.")
@click.option("--trace", is_flag=True, help="With the raw trace, so that it can be judged again.")
@click.pass_context
def bundle_command(ctx: click.Context, path: Path, out: Path | None, trace: bool) -> None:
    """One test's evidence as an attachment for a bug report, secrets taken out."""
    case = open_case(path)
    redactor = _redactor(ctx, case)
    out = out or Path(f"{case.directory.name}.tar.zst")
    since = _since(case, case.failing[0]) if case.failing else None
    names = bundles.write(case, out, redactor, since, trace)
    for name in names:
        click.echo(name)
    taken = ", ".join(f"{count} {kind}" for kind, count in redactor.replaced.items())
    click.echo(f"{out}: {out.stat().st_size} bytes; taken out: {taken or 'nothing'}", err=True)


@click.command("export")
@click.argument("path", type=click.Path(path_type=Path, file_okay=False), metavar="RUN")
@click.option("--as", "form", type=click.Choice(["junit", "json"]), default="junit")
@click.option("-o", "out", type=click.File("wb"), default="-", help="That file (default: stdout).")
def export_command(path: Path, form: str, out: IO[bytes]) -> None:
    """A run's verdicts for other tools: JUnit XML, or one JSON."""
    run = RunDir.open(path)
    judged = report.verdicts(run)
    made = exports.as_junit(run, judged) if form == "junit" else exports.as_json(run, judged)
    out.write(made)


@click.command("report")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Default: RUNS/site.")
@click.option("--runs", type=click.Path(path_type=Path, file_okay=False), metavar="DIR")
@click.option("--history", "url", metavar="URL", help="Default: RUNS/history.sqlite.")
@click.option("--nights", type=click.IntRange(2, 365), default=site.NIGHTS, show_default=True)
@click.pass_context
def report_command(
    ctx: click.Context, out: Path | None, runs: Path | None, url: str | None, nights: int
) -> None:
    """Write the site: what changed since last night, a page for each finding, test and target."""
    runs = runs or inventory.load(ctx.obj or inventory.default_path()).runs
    with History.open(url or default_url(runs)) as history:
        history.add([runs])
        front = site.write(history, out or site.default_out(runs), nights)
    click.echo(front.absolute().as_uri())


def _finding(case: Case, signature: str | None) -> Finding:
    """The one asked for, else that which made the verdict.  Raises UsageError for none."""
    found = [f for f in case.verdict.findings if f.signature == signature] or case.failing
    if not found or (signature and found[0].signature != signature):
        listed = ", ".join(f"{f.signature} ({f.kind})" for f in case.failing)
        raise UsageError(
            f"no such finding: this test's verdict is {case.verdict.outcome}",
            where=str(case.directory),
            cure=f"choose of: {listed}" if listed else "name a test that failed",
        )
    return found[0]


def _since(case: Case, finding: Finding) -> mail.Since | None:
    """What the history beside the run knows of it, where there is one."""
    runs = case.run.path.absolute().parent
    if not (runs / "history.sqlite").exists():
        return None
    with History.open(default_url(runs)) as history:
        return mail.since_of(history, case, finding.signature)


def _redactor(ctx: click.Context, case: Case) -> Redactor:
    """Knows the secrets of every target in the list, where there is one, and of the run."""
    secrets = list(redact.of_facts(case.facts))
    path = ctx.obj or inventory.default_path()
    listed: Inventory | None = inventory.load(path) if path.exists() else None
    for target in listed.targets.values() if listed else ():
        secrets += redact.of_target(target)
    return Redactor(secrets)


COMMANDS = (mail_command, bundle_command, export_command, report_command)
"""What `lab` gains."""
