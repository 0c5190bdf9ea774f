"""The history: what every test did in every run, asked for in a moment.

An index over run directories, in SQLite or PostgreSQL (tables.py, store.py): adding a run again
changes nothing, and an older schema is made anew.  Answers are the facts of past.py.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import msgspec
import sqlalchemy as sql
from sqlalchemy.engine import Connection, Engine

from harness.lab import ingest, store, tables
from harness.lab.past import BAD, JUDGED, Failing, Night, Result, Run, Sighting

log = logging.getLogger(__name__)
_TIMES = msgspec.json.Decoder(dict[str, float])

__all__ = [
    "BAD",
    "JUDGED",
    "Added",
    "Failing",
    "History",
    "Night",
    "Result",
    "Run",
    "Sighting",
    "default_url",
]


@dataclass(frozen=True, slots=True)
class Added:
    """What `add` did: runs that were read, runs that were known as they are, results read."""

    read: int
    known: int
    results: int


def default_url(runs: Path) -> str:
    """The history beside the runs, in SQLite."""
    return f"sqlite:///{runs.absolute() / 'history.sqlite'}"


class History:
    """One database.  Safe for several processes at once; a context manager."""

    def __init__(self, engine: Engine, url: str) -> None:
        """Made by `open`."""
        self._engine = engine
        self.url = url

    @classmethod
    def open(cls, url: str) -> Self:
        """The history at `url` (sqlite:///FILE, postgresql://...), made where there is none.

        One of an older schema is made anew from the directories that it names.  Raises UsageError
        for an address that is none, LabError for a database that does not answer.
        """
        engine = store.connect(url)
        with store.told(url):
            before = store.prepare(engine, url)
        history = cls(engine, url)
        if before:
            log.warning("the history's schema is older: made anew of %d directories", len(before))
            history.add(path for path in before if path.exists())
        return history

    def close(self) -> None:
        """Leave the database.  Idempotent."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- writing ---------------------------------------------------------------

    def add(self, paths: Iterable[Path]) -> Added:
        """Read each run directory or night, and each in a directory of such; one that is known as
        it is, is passed over.  Raises UsageError where `paths` are none, LabError."""
        done = known = results = 0
        for root in paths:
            for path in ingest.nights_in(root):
                seen = ingest.night_fingerprint(path)
                if not self._known(tables.nights, path, seen):
                    night = ingest.read_night(path)
                    with store.told(self.url), store.writing(self._engine) as connection:
                        store.put_night(connection, night, seen)
            for path in ingest.runs_in(root):
                seen = ingest.fingerprint(path)
                if self._known(tables.runs, path, seen):
                    known += 1
                    continue
                run = ingest.read(path)
                with store.told(self.url), store.writing(self._engine) as connection:
                    store.put(connection, run, seen)
                done, results = done + 1, results + len(run.tests)
        return Added(done, known, results)

    def rebuild(self, roots: Iterable[Path]) -> Added:
        """Forget everything; read again what was known and is still there, and `roots`."""
        with store.told(self.url):
            before = store.clear(self._engine)
        return self.add([*(path for path in before if path.exists()), *roots])

    def _known(self, table: sql.Table, path: Path, seen: str) -> bool:
        with self._reading() as connection:
            known = store.print_of(connection, table, path.resolve().name)
        return known == (seen, str(path.resolve()))

    # -- reading ---------------------------------------------------------------

    def nights(self, *, nightly: bool = True, last: int | None = None) -> list[Night]:
        """Newest first, the `last` ones; with `nightly=False` also runs by hand, each of which is
        its own night."""
        run, of = tables.runs.c, tables.night_targets.c
        with self._reading() as connection:
            ran = connection.execute(
                sql.select(run.night, run.target, run.nightly, run.started, run.ended, run.unfit)
                .where(run.nightly if nightly else sql.true())
                .order_by(run.started)
            ).all()
            said = {row.name: row for row in connection.execute(sql.select(tables.nights))}
            whys = connection.execute(sql.select(of.night, of.target, of.why)).all()
        found: dict[str, _Making] = {}
        for name, row in said.items():
            found[name] = _Making(True, row.started, row.ended, row.how)
        for row in ran:
            making = found.setdefault(row.night, _Making(row.nightly, row.started, row.ended))
            making.targets.setdefault(row.target)
            if row.unfit:
                making.troubles[row.target] = row.unfit
        for name, target, why in whys:
            found[name].targets.setdefault(target)
            if why:
                found[name].troubles.setdefault(target, why)
        nights = [
            Night(name, m.nightly, m.started, m.ended, m.how, tuple(sorted(m.targets)), m.troubles)
            for name, m in found.items()
        ]
        nights.sort(key=lambda made: (made.started, made.name), reverse=True)
        return nights[:last]

    def runs(self, *, night: str = "", target: str = "") -> list[Run]:
        """Newest first."""
        run = tables.runs.c
        wanted = sql.select(tables.runs).order_by(run.started.desc(), run.name)
        wanted = wanted.where(run.night == night) if night else wanted
        wanted = wanted.where(run.target == target) if target else wanted
        with self._reading() as connection:
            return [
                Run(
                    row.name,
                    Path(row.path),
                    row.night,
                    row.nightly,
                    row.target,
                    row.driver,
                    row.kernel,
                    row.build,
                    row.started,
                    row.ended,
                    row.how,
                    row.unfit,
                    row.boots,
                )
                for row in connection.execute(wanted)
            ]

    def results(
        self,
        *,
        nights: Sequence[str] = (),
        target: str = "",
        test: str = "",
        signature: str = "",
        since: float | None = None,
        until: float | None = None,
    ) -> list[Result]:
        """All that fit everything that is asked for, oldest first.  `since` and `until` are of
        the runs' beginnings, `signature` is of a finding of any severity but note."""
        run, failing = tables.runs.c, tables.failings.alias()
        conditions: list[sql.ColumnElement[bool]] = []
        if nights:
            conditions.append(run.night.in_(nights))
        if target:
            conditions.append(run.target == target)
        if since is not None:
            conditions.append(run.started >= since)
        if until is not None:
            conditions.append(run.started <= until)
        if test:
            conditions.append(tables.tests.c.name == test)
        if signature:
            found = sql.select(failing.c.run).where(
                failing.c.signature == signature, *_same(failing, tables.results)
            )
            conditions.append(found.exists())
        with self._reading() as connection:
            runs: dict[int, tuple[Any, ...]] = {
                row.id: (
                    row.name,
                    Path(row.path),
                    row.night,
                    row.target,
                    row.driver,
                    row.kernel,
                    row.build,
                )
                for row in connection.execute(sql.select(tables.runs))
            }
            tests = {row.id: row.name for row in connection.execute(sql.select(tables.tests))}
            failings = _by_result(connection, tables.failings, conditions)
            rows = connection.execute(_joined(tables.results, conditions)).all()
        # By place, not by name: there are hundreds of thousands.
        made = []
        for run_id, test_id, attempt, *told, known, fixed, times in rows:
            key = (run_id, test_id, attempt)
            values: list[Any] = [
                *runs[run_id],
                tests[test_id],
                attempt,
                *told,
                tuple(known.split("\n")) if known else (),
                tuple(fixed.split("\n")) if fixed else (),
                tuple(Failing(*found[4:]) for found in failings.get(key, ())),
                _TIMES.decode(times) if times else {},
            ]
            made.append(Result(*values))
        made.sort(key=lambda result: (result.started, result.run, result.test, result.attempt))
        return made

    def sightings(self, signatures: Sequence[str] = ()) -> list[Sighting]:
        """Of each of `signatures`, or of all that ever failed a test; last seen first."""
        run, found = tables.runs.c, tables.failings.c
        wanted = (
            sql.select(
                found.signature,
                found.kind,
                found.title,
                run.started,
                run.night,
                run.target,
                run.kernel,
                tables.tests.c.name.label("test"),
            )
            .join(tables.runs, run.id == found.run)
            .join(tables.tests, tables.tests.c.id == found.test)
            .where(found.severity == "fail")
            .order_by(run.started, run.name)
        )
        if signatures:
            wanted = wanted.where(found.signature.in_(signatures))
        seen: dict[str, list[Any]] = {}
        with self._reading() as connection:
            for row in connection.execute(wanted):
                seen.setdefault(row.signature, []).append(row)
        made = [_sighting(rows) for rows in seen.values()]
        return sorted(made, key=lambda one: (-one.last, one.signature))

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with store.told(self.url), self._engine.connect() as connection:
            yield connection


class _Making:
    """A night that is being put together."""

    def __init__(self, nightly: bool, started: float, ended: float | None, how: str = "") -> None:
        self.nightly, self.started, self.ended, self.how = nightly, started, ended, how
        self.targets: dict[str, None] = {}
        self.troubles: dict[str, str] = {}


def _same(one: sql.FromClause, other: sql.FromClause) -> list[sql.ColumnElement[bool]]:
    """Whether rows of two tables are of the same result."""
    return [one.c[key] == other.c[key] for key in ("run", "test", "attempt")]


def _joined(table: sql.Table, conditions: list[sql.ColumnElement[bool]]) -> sql.Select[Any]:
    """The rows of `table` whose results fit."""
    wanted = sql.select(table)
    if not conditions:
        return wanted
    source: Any = table.join(tables.runs, tables.runs.c.id == table.c.run)
    source = source.join(tables.tests, tables.tests.c.id == table.c.test)
    if table is not tables.results:
        source = source.join(tables.results, sql.and_(*_same(tables.results, table)))
    return wanted.select_from(source).where(*conditions)


def _by_result(
    connection: Connection, table: sql.Table, conditions: list[sql.ColumnElement[bool]]
) -> dict[tuple[int, int, int], list[Any]]:
    rows: dict[tuple[int, int, int], list[Any]] = {}
    for row in connection.execute(_joined(table, conditions).order_by(*table.primary_key.columns)):
        rows.setdefault(row[:3], []).append(row)
    return rows


def _sighting(rows: list[Any]) -> Sighting:
    first, last = rows[0], rows[-1]

    def all_of(column: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(getattr(row, column) for row in rows))

    return Sighting(
        signature=last.signature,
        kind=last.kind,
        title=last.title,
        count=len(rows),
        first=first.started,
        last=last.started,
        first_night=first.night,
        last_night=last.night,
        first_kernel=first.kernel,
        targets=all_of("target"),
        kernels=all_of("kernel"),
        tests=all_of("test"),
    )
