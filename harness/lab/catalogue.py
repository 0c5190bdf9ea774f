"""The catalogue: every testcase with its clause of the contract and where that comes from.

Read from the docstrings of testcases/ without running them: the clause first, then lines that
begin with "Source:" (kernel files and functions) and "Runs on:" (sim-navi, sim-gen3, generic).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

__all__ = ["COMMANDS", "LONGEST", "PLACES", "Entry", "entries", "length"]

PLACES = ("sim-navi", "sim-gen3", "generic")
"""Where a testcase runs; "generic" is any driver, vgem and sw_sync too."""

LONGEST = 40
"""Lines in which the contract of a test must be readable, its private helpers counted."""

# What the table leaves out of a path.
_BELOW = "drivers/gpu/drm/"
_FIELDS = {"source": "Source:", "places": "Runs on:"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One test function; `source` and `places` are "" where its docstring has none."""

    file: str
    test: str
    clause: str
    source: str
    places: str
    lines: int


def entries(folder: Path) -> Iterator[Entry]:
    """Every test function below `folder`, by file and in its order there."""
    for path in sorted(folder.glob("test_*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        functions = {one.name: one for one in tree.body if isinstance(one, ast.FunctionDef)}
        for name, function in functions.items():
            if name.startswith("test_"):
                parts = _parts(ast.get_docstring(function) or "")
                lines = length(function, functions)
                yield Entry(path.name, name, parts["clause"], *_rest(parts), lines)


def length(function: ast.FunctionDef, functions: dict[str, ast.FunctionDef]) -> int:
    """Lines of code of `function` and of what it calls in `functions`, docstrings left out."""
    wanted, counted = [function], {function.name}
    total = 0
    while wanted:
        one = wanted.pop()
        end = one.end_lineno or one.lineno
        total += end - one.lineno + 1
        if ast.get_docstring(one) is not None:
            text = one.body[0]
            total -= (text.end_lineno or text.lineno) - text.lineno + 1
        for node in ast.walk(one):
            if isinstance(node, ast.Name) and node.id in functions and node.id not in counted:
                counted.add(node.id)
                wanted.append(functions[node.id])
    return total


def _parts(docstring: str) -> dict[str, str]:
    parts: dict[str, list[str]] = {"clause": [], **{name: [] for name in _FIELDS}}
    current = "clause"
    for line in docstring.splitlines():
        for name, word in _FIELDS.items():
            if line.startswith(word):
                current, line = name, line.removeprefix(word)
        parts[current].append(line.strip())
    return {name: " ".join(filter(None, lines)).rstrip(".") for name, lines in parts.items()}


def _rest(parts: dict[str, str]) -> tuple[str, str]:
    return parts["source"], parts["places"]


@click.command("catalogue")
@click.argument(
    "folder", type=click.Path(path_type=Path, exists=True, file_okay=False), default="testcases"
)
def command(folder: Path) -> None:
    """The testcases as a table in Markdown: what each holds the kernel to, and why."""
    click.echo("| test | clause of the contract | kernel source it comes from | runs on |")
    click.echo("|---|---|---|---|")
    for entry in entries(folder):
        module = entry.file.removeprefix("test_").removesuffix(".py")
        source = entry.source.replace(_BELOW, "")
        cells = (f"{module}: `{entry.test}`", entry.clause, source, entry.places)
        click.echo(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")


COMMANDS = (command,)
"""What `lab` gains."""
