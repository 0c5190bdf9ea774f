"""The `lab` face: one command for a desk, a nightly and a bisect.

Each subcommand is thin: it parses, calls one room of the house, and turns a
HarnessError into a message and an exit status.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from harness import inventory
from harness.errors import HarnessError, UsageError
from harness.lab import asked
from harness.link.virtual import cache_root

__all__ = ["main"]

ROOT = Path(__file__).resolve().parent.parent
# Test files that run side by side, each perhaps with a virtual machine of 1 GiB.
MOST_BESIDE = 4
# Where each command lives: loaded when it is asked for, so that `lab dmesg` needs no database.
ELSEWHERE = {
    "harness.desk_commands": ("console", "doctor", "power", "shell", "targets", "unlock"),
    "harness.lab.catalogue": ("catalogue",),
    "harness.lab.commands_bisect": ("bisect",),
    "harness.lab.commands_boot": ("boot",),
    "harness.lab.commands_log": ("log",),
    "harness.lab.commands_dmesg": ("dmesg",),
    "harness.lab.commands_fences": ("fences",),
    "harness.lab.commands_known": ("known", "repro"),
    "harness.lab.commands_nightly": ("diff", "history", "nightly"),
    "harness.lab.commands_report": ("bundle", "export", "mail", "report"),
    "harness.lab.commands_retention": ("prune", "replay"),
}
PLACES = {name: module for module, names in ELSEWHERE.items() for name in names}


class _Group(click.Group):
    """Finds commands where they live; turns every HarnessError into its message and status."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *PLACES})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in PLACES:
            return super().get_command(ctx, cmd_name)
        commands: tuple[click.Command, ...] = import_module(PLACES[cmd_name]).COMMANDS
        return next(command for command in commands if command.name == cmd_name)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except HarnessError as error:
            click.secho(f"lab: {error}", err=True, fg="red")
            ctx.exit(error.exit_status)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--inventory",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The target list (default: $LAB_TARGETS, else targets.toml).",
)
@click.pass_context
def main(ctx: click.Context, path: Path | None) -> None:
    """Hang GPUs on purpose and prove from the kernel's own evidence what recovery did."""
    ctx.obj = path


def _pytest(ctx: click.Context, *args: str, env: dict[str, str] | None = None) -> None:
    """Hand over to pytest in a process of its own; its exit status is ours."""
    argv = [sys.executable, "-m", "pytest", *args]
    ctx.exit(subprocess.run(argv, cwd=ROOT, env=env).returncode)


def _compiled_once() -> dict[str, str]:
    """The environment of the harness's own tests, which start a thousand processes: where no
    bytecode may be written to the tree it is kept in the cache, or each would compile all anew."""
    kept = {**os.environ}
    if kept.pop("PYTHONDONTWRITEBYTECODE", ""):
        kept.setdefault("PYTHONPYCACHEPREFIX", str(cache_root() / "bytecode"))
    return kept


@main.command(context_settings={"ignore_unknown_options": True})
@click.option(
    "--target", "names", multiple=True, metavar="NAME", help="Default: every virtual one."
)
@click.argument("pytest_args", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def run(ctx: click.Context, names: tuple[str, ...], pytest_args: tuple[str, ...]) -> None:
    """Run testcases/ on targets; further arguments go to pytest."""
    listed = inventory.load(ctx.obj or inventory.default_path())
    chosen = [listed.get(name).name for name in names] or [t.name for t in listed.virtual()]
    if not chosen:
        raise UsageError(
            "no virtual target is configured",
            where=str(listed.path),
            cure="name a target with --target NAME",
        )
    places = [] if asked.names_places(pytest_args) else ["testcases"]
    _pytest(
        ctx,
        *places,
        f"--inventory={listed.path.resolve()}",
        *(f"--target={name}" for name in chosen),
        *asked.settled(pytest_args),
    )


@main.command(context_settings={"ignore_unknown_options": True})
@click.option("--fast", "depth", flag_value="fast", help="Unit and loopback only.")
@click.option("--deep", "depth", flag_value="deep", help="Also what is too long for CI.")
@click.option(
    "--matrix",
    "depth",
    flag_value="matrix",
    help="Break the virtual GPU in every way it knows (or FAULT...); print what was caught.",
)
@click.option(
    "--faults",
    "depth",
    flag_value="faults",
    help="Let machine, agent, link, disk and harness die in every way (or FAULT...).",
)
@click.argument("pytest_args", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def test(ctx: click.Context, depth: str | None, pytest_args: tuple[str, ...]) -> None:
    """The harness's own tests."""
    if depth in ("matrix", "faults"):
        argv = [sys.executable, "-m", f"harness.tests.vm.{depth}", *pytest_args]
        ctx.exit(subprocess.run(argv, cwd=ROOT).returncode)
    # The longest first, and the short ones fill up what is left of the workers' time.
    places = ["harness/tests/loopback", "harness/tests/unit"]
    if depth != "fast":
        places.insert(0, "harness/tests/vm")
    deep = ["--deep"] if depth == "deep" else []
    # A file's tests share a machine, and most of their time they wait for it: an emulated one
    # works meanwhile, a server on loopback does not.
    cpus = len(os.sched_getaffinity(0))
    workers = str(min(MOST_BESIDE, 2 * cpus if depth == "fast" else cpus))
    beside = ["-n", workers, "--dist", "loadfile", "--no-loadscope-reorder"]
    _pytest(ctx, *places, *deep, *beside, *pytest_args, env=_compiled_once())


@main.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option(
    "--corpus",
    type=click.Path(path_type=Path, file_okay=False, resolve_path=True),
    help="For kernel-log: a folder of logs with a manifest.jsonl to score the parser on.",
)
@click.pass_context
def bench(ctx: click.Context, name: str | None, as_json: bool, corpus: Path | None) -> None:
    """Benchmarks, each beside what a user would use instead."""
    argv = [sys.executable, "-m", "tools.bench", *([name] if name else [])]
    argv += ["--json"] if as_json else []
    argv += ["--corpus", str(corpus)] if corpus else []
    ctx.exit(subprocess.run(argv, cwd=ROOT).returncode)


if __name__ == "__main__":
    main()
