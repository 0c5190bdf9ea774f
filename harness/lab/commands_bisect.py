"""`lab bisect`: which commit broke it, how sure that is, and the evidence."""

from __future__ import annotations

import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path

import click
import numpy as np

from harness import inventory
from harness.bisect import report
from harness.bisect.bisection import Bisection, Setting
from harness.bisect.forecast import Lab, forecast
from harness.bisect.history import History
from harness.bisect.kernels import Kernels, Workshop
from harness.bisect.oracle import Wanted
from harness.bisect.rate import of_bad_after, of_good
from harness.bisect.runner import Runner
from harness.bisect.search import Search
from harness.errors import UsageError
from harness.lab import onset, redact
from harness.lab.claims import claimed
from harness.lab.commands_nightly import history_option, open_history
from harness.lab.reservation import Reservation
from harness.link.virtual import cache_root, load_manifest

__all__ = ["COMMANDS"]

# Kernels kept beside those that are likely to be wanted.
_KEPT = 40
# Simulated searches of a dry run, and the rates they are told for.
_SIMULATED = 40
_RATES = (1.0, 0.5, 0.2)
_NOT_SURE = 1


@click.command("bisect")
@click.option("--target", "name", metavar="NAME", help="Where kernels are tried.")
@click.option("--tree", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--good", multiple=True, metavar="REV", help="May be repeated.")
@click.option("--bad", metavar="REV")
@click.option("--test", metavar="NODE", help="As pytest names it.")
@click.option("--finding", metavar="SIGNATURE", help="Default: what the bad end shows first.")
@click.option(
    "--from-finding", metavar="SIGNATURE",
    help="Of the history: what is not given is taken from its last good and first bad kernels.",
)  # fmt: skip
@history_option
@click.option("--first-parent", is_flag=True, help="Only the main line's commits.")
@click.option("--path", "paths", multiple=True, metavar="PATH", help="Only commits touching it.")
@click.option(
    "--seen", metavar="BAD/RUNS", help="How often a bad kernel showed it, if known: 7/20."
)
@click.option("--confidence", type=click.FloatRange(0.5, 0.9999), default=0.99, show_default=True)
@click.option(
    "--unrelated", type=click.FloatRange(0.0001, 0.2), default=0.005, show_default=True,
    help="Chance that a good kernel's run shows the very finding.",
)  # fmt: skip
@click.option("--build", metavar="COMMAND", help="Builds a kernel: COMMAND TREE COMMIT OUT.")
@click.option("--module", metavar="FOLDER:MODULE", help="Build only this module, of that folder.")
@click.option("--install", metavar="COMMAND", help="For a box: COMMAND KERNEL-DIRECTORY TARGET.")
@click.option(
    "--kernels",
    "store",
    type=click.Path(path_type=Path),
    help="Where they are kept (default: in the cache).",
)
@click.option("--limit", "limit_s", type=float, default=1800.0, help="Seconds for one run.")
@click.option(
    "--per-boot", type=click.IntRange(1, 32), default=1, show_default=True,
    help="Runs that one boot may serve, where that is cheaper; they end with a failure."
    " A NODE with [parameters] still gets one: pytest takes it for that very run.",
)  # fmt: skip
@click.option("--most-runs", type=int, default=500, show_default=True)
@click.option("--dir", "folder", type=click.Path(path_type=Path), help="A new folder for it.")
@click.option("--resume", type=click.Path(path_type=Path, exists=True), help="Go on with this one.")
@click.option("--dry-run", is_flag=True, help="The plan and what it may cost; nothing is run.")
@click.argument("pytest_args", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def bisect_command(
    ctx: click.Context,
    folder: Path | None,
    resume: Path | None,
    dry_run: bool,
    store: Path | None,
    name: str | None,
    tree: Path | None,
    good: tuple[str, ...],
    bad: str | None,
    test: str | None,
    finding: str | None,
    from_finding: str | None,
    url: str | None,
    first_parent: bool,
    paths: tuple[str, ...],
    seen: str | None,
    confidence: float,
    unrelated: float,
    build: str | None,
    module: str | None,
    install: str | None,
    limit_s: float,
    per_boot: int,
    most_runs: int,
    pytest_args: tuple[str, ...],
) -> None:
    """Which commit broke it, where a bad kernel may pass and a good one fail.

    Known issues excuse nothing, as one may be what is searched for; `-- --known FILE` has them do.
    Exit status 1: the range was narrowed down, but not to what was asked for.
    """
    if resume is not None:
        setting, folder = Setting.load(resume), resume
    else:
        store = (store or cache_root() / "bisect").resolve()
        if from_finding is not None:
            listed = inventory.load(ctx.obj or inventory.default_path())
            with open_history(listed, url, None) as history:
                named = onset.pick((one.signature for one in history.sightings()), from_finding)
                began = onset.find(history, named, name or "", test or "")
            click.echo("\n".join(began.told()))
            name, test, finding = began.target, began.test, finding or named
            seen = seen or f"{began.shown}/{began.runs}"
            if tree is not None:
                bad = bad or onset.commit_of(tree, began.bad, store / "kernels")
                if not good and began.good is not None:
                    good = (onset.commit_of(tree, began.good, store / "kernels"),)
        if name is None or tree is None or not good or bad is None or test is None:
            raise UsageError(
                "a bisect needs --target, --tree, --good, --bad and --test",
                cure="give them, or --from-finding SIGNATURE and --tree, or --resume FOLDER",
            )
        listed = inventory.load(ctx.obj or inventory.default_path())
        command, under = _builder(build, module, store)
        showed, ran = _seen(seen)
        setting = Setting(
            history=History.read(tree, good, bad, first_parent=first_parent, paths=paths),
            good=good, bad=bad, target=listed.get(name).name,
            inventory=str(listed.path.resolve()), test=test,
            wanted=Wanted(finding) if finding else None,
            confidence=confidence, unrelated=unrelated, seen=ran, seen_bad=showed,
            build=command, under=under, store=str(store), install=tuple(shlex.split(install or "")),
            extra=pytest_args, limit_s=limit_s, most_runs=most_runs,
            per_boot=per_boot,
        )  # fmt: skip
    if dry_run:
        _plan(setting)
        return
    if folder is None:
        now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        folder = inventory.load(Path(setting.inventory)).runs / f"bisect-{now}-{setting.target}"
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if resume is None:
        if (folder / "bisect.json").exists():
            raise UsageError(
                "there is a bisect already", where=str(folder), cure=f"--resume {folder}"
            )
        setting.save(folder)
    ctx.exit(_run(setting, folder))


def _run(setting: Setting, folder: Path) -> int:
    listed = inventory.load(Path(setting.inventory))
    target = listed.get(setting.target)
    secrets = [secret for each in listed.targets.values() for secret in redact.of_target(each)]
    store = Path(setting.store) / "kernels"
    kernels = Kernels(Path(setting.history.tree), store, setting.build, setting.under)
    kernels.learn([commit.id for commit in setting.history.commits])
    runner = Runner(
        Path(setting.inventory), target, setting.test, folder / "home",
        limit_s=setting.limit_s, install=setting.install, extra=setting.extra,
    )  # fmt: skip
    what = f"lab bisect {folder}"
    with Reservation.take(f"bisect-{setting.target}", what), claimed(target, what, _say):
        workshop = Workshop(kernels)
        bisection = Bisection(setting, folder, workshop, kernels.known, runner, _say)
        try:
            answer = bisection.go()
        finally:
            report.write(bisection, bisection.search.answer(), secrets)
            bisection.close()
            workshop.close()
            if runner.boots:
                _say(f"{target.name} may run the kernel tried last: lab boot {target.name} --own")
        kernels.prune({setting.history.commits[one].id for one in answer.members}, _KEPT)
    click.echo(report.text(bisection, answer), nl=False)
    click.echo(f"report {folder / 'report.txt'}, posterior.svg and mail.txt beside it")
    return 0 if answer.sure else _NOT_SURE


def _plan(setting: Setting) -> None:
    history = setting.history
    dag = history.dag()
    search = Search(dag, setting.assumed())
    first = search.next()
    merges = sum(len(commit.parents) > 1 for commit in history.commits)
    click.echo(f"{len(history)} commits, {merges} of them merges; {search.bits():.1f} bits")
    if setting.wanted is None:
        click.echo(f"first, until it fails: {history.label(len(history) - 1)}")
    if first is not None:
        click.echo(f"then {history.label(first)}")
    told = setting.seen
    rates = [setting.seen_bad / told] if told else _RATES
    random = np.random.default_rng(0)
    searches = max(4, min(_SIMULATED, 200_000 // len(history)))
    for shows in rates:
        lab = Lab.draw(dag, searches, shows, setting.unrelated, 0.0, random)
        done = forecast(
            dag, lab, of_bad_after(told), of_good(setting.unrelated), random,
            confidence=setting.confidence, told=told, most_runs=setting.most_runs,
        )  # fmt: skip
        low, middle, high = np.percentile(done.runs, (10, 50, 90))
        click.echo(
            f"if a bad kernel shows it in {shows:.0%} of its runs: about {middle:.0f} boots"
            f" ({low:.0f} to {high:.0f}), right in {np.mean(done.right & done.sure):.0%}"
            f" of {searches} simulated"
        )


def _builder(build: str | None, module: str | None, store: Path) -> tuple[tuple[str, ...], str]:
    """The command that builds, and the folder that decides what comes out."""
    if build and not module:
        return tuple(shlex.split(build)), ""
    if not module or build:
        raise UsageError(
            "nothing says how kernels are built" if not build else "--build and --module both do",
            cure="give --build COMMAND or --module FOLDER:MODULE,"
            " as tools/simgpu:drivers/gpu/drm/simgpu/amdgpu",
        )
    folder, _, place = module.partition(":")
    if not folder or not place:
        raise UsageError(
            f"{module!r} is no FOLDER:MODULE",
            cure="as tools/simgpu:drivers/gpu/drm/simgpu/amdgpu",
        )
    root = Path(__file__).resolve().parents[2]
    words = ("env", f"PYTHONPATH={root}", sys.executable, "-m", "tools.kernel.commit", "modules")
    # Another kernel's module would be another product.
    base = Path(load_manifest().kernel).parent.name
    asked = ("--of", base, "--folder", folder, "--module", place)
    return (*words, "--work", str(store / "work"), *asked), folder


def _seen(given: str | None) -> tuple[int, int]:
    """(bad, all) of "7/20"."""
    if given is None:
        return 0, 0
    bad, _, runs = given.partition("/")
    if not (bad.isdigit() and runs.isdigit() and 0 < int(bad) <= int(runs) < 2000):
        raise UsageError(f"--seen {given!r} is no BAD/RUNS", cure="as 7/20, at least one of them")
    return int(bad), int(runs)


def _say(line: str) -> None:
    click.echo(line, err=True)


COMMANDS = (bisect_command,)
