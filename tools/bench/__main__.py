"""Run the benchmarks: `python -m tools.bench [NAME] [--json]`.

Each is a bench_NAME.py beside this file with `run() -> list[Result]`.  Exit
status 1 when one did not meet what was wanted, 2 for no such benchmark.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import click
from rich.console import Console
from rich.table import Table

from harness.errors import HarnessError, UsageError
from harness.tomlerror import nearest
from tools.bench.result import Result

__all__ = ["main", "names"]


def names() -> list[str]:
    """The benchmarks there are."""
    found = Path(__file__).parent.glob("bench_*.py")
    return sorted(path.stem.removeprefix("bench_") for path in found)


@click.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--corpus", type=click.Path(path_type=Path), help="Logs to score kernel-log on.")
def main(name: str | None, as_json: bool, corpus: Path | None) -> None:
    """Benchmarks, each beside what a user would use instead."""
    try:
        met = _show(_results(name and name.replace("-", "_"), corpus), as_json)
    except HarnessError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_status)
    sys.exit(0 if met else 1)


def _results(name: str | None, corpus: Path | None) -> Iterator[Result]:
    if name is not None and name not in names():
        raise UsageError(
            f"no benchmark named {name!r}{nearest(name, names())}",
            cure=f"choose one of: {', '.join(names())}",
        )
    for chosen in names() if name is None else [name]:
        module = importlib.import_module(f"tools.bench.bench_{chosen}")
        scored = corpus is not None and chosen == "kernel_log"
        yield from cast("list[Result]", module.run(corpus) if scored else module.run())


def _show(results: Iterator[Result], as_json: bool) -> bool:
    """Print them; whether all that was wanted was met."""
    table = Table(box=None, pad_edge=False)
    for column in ("bench", "measured", "unit", "beside", "ratio", "wanted", "met"):
        table.add_column(column)
    met = True
    for result in results:
        met = met and result.met is not False
        if as_json:
            click.echo(result.line())
            continue
        table.add_row(
            result.bench,
            f"{result.measured:g}" + (f"\n{result.note}" if result.note else ""),
            result.unit,
            "\n".join(f"{name} {value:g}" for name, value in result.beside.items()),
            "-" if result.ratio is None else f"{result.ratio:g}",
            "-" if result.wanted is None else f">= {result.wanted:g}",
            {None: "-", True: "yes", False: "no"}[result.met],
        )
    if not as_json:
        Console().print(table)
    return met


if __name__ == "__main__":
    main()
