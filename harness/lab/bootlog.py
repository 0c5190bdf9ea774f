"""The merged log of each boot of a run, for a person: what kmsg, console, netconsole, pstore and
kdump told, each line once, with its sources, and what is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from harness.errors import UsageError
from harness.evidence.packed import plain
from harness.evidence.rundir import RunDir
from harness.kernel import records
from harness.kernel.merge import Gap, Line, Merged, merge, read_netconsole
from harness.kernel.records import Record, parse_console
from harness.lastwords import kept

__all__ = ["boots", "letters", "of_boot", "text"]

# As they are told beside each line.
_LETTERS = {
    "kmsg": "k",
    "console": "c",
    "console.log": "c",
    "netconsole": "n",
    "netconsole.log": "n",
    "pstore": "p",
    "kdump": "d",
}


def boots(run: RunDir, wanted: str = "") -> list[str]:
    """The run's boots in order, or those whose id begins with `wanted`.

    Raises UsageError where there is none.
    """
    known = [str(boot) for boot in run.facts().get("boots", [])]
    found = [boot for boot in known if boot.startswith(wanted)]
    if not found:
        raise UsageError(
            f"no boot {wanted!r} in this run" if wanted else "this run has no boot",
            where=str(run.path),
            cure=f"one of: {', '.join(known)}" if known else "see its journal.jsonl",
        )
    return found


def of_boot(run: RunDir, boot: str) -> Merged:
    """One boot's log, out of all that was kept of it."""
    folder = run.path / f"boot-{boot}"
    others: dict[str, Iterable[Record]] = {}
    for name, read in _READERS:
        if (path := plain(folder / f"{name}.log")).exists():
            others[name] = _stream(path, read)
    others |= kept(folder)
    kmsg = plain(folder / "kmsg")
    return merge(_stream(kmsg, records.parse) if kmsg.exists() else (), others)


def text(merged: Merged) -> Iterator[str]:
    """Its lines as dmesg shows them, each behind the letters of its sources (k, c, n, p, d)."""
    for line in merged.lines:
        yield _gap(line) if isinstance(line, Gap) else _line(line)
    for source, count in merged.foreign.items():
        if count:
            yield f"-- {source}: lines of another boot, left out: {count}"


def letters(sources: Iterable[str]) -> str:
    """Who heard a line: k for kmsg, c for the console, n for netconsole, p for pstore, d for
    kdump."""
    return "".join(dict.fromkeys(_LETTERS[source.partition("/")[0]] for source in sources))


_Reader = Callable[[Iterable[bytes]], Iterator[Record]]
_READERS: tuple[tuple[str, _Reader], ...] = (
    ("console", parse_console),
    ("netconsole", read_netconsole),
)


def _stream(path: Path, read: _Reader) -> Iterator[Record]:
    with path.open("rb") as stream:
        yield from read(stream)


def _gap(gap: Gap) -> str:
    known = f"; known from elsewhere: {gap.known}" if gap.known else ""
    return f"-- records {gap.first} to {gap.last} are missing ({gap.last - gap.first + 1}){known}"


def _line(line: Line) -> str:
    caller = f"[{line.caller:>6}]" if line.caller else ""
    heard, when = letters(line.sources), f"{line.usec // 1_000_000:5}.{line.usec % 1_000_000:06}"
    return f"{heard:<4} [{when}]{caller} {line.text}"
