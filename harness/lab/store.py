"""The database behind the history: connecting, its schema, writing runs and nights into it.

One writer at a time, whichever database: SQLite's BEGIN IMMEDIATE, PostgreSQL's advisory lock.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sql
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, TimeoutError

from harness.errors import LabError, UsageError
from harness.lab import tables
from harness.lab.ingest import ReadNight, ReadRun

__all__ = ["clear", "connect", "prepare", "print_of", "put", "put_night", "told", "writing"]

# How long a writer waits for another one, in seconds.  One run takes milliseconds.
PATIENCE = 120
# Of PostgreSQL's advisory locks ours; any number will do ("tdrl").
LOCK = 0x7464726C
WRITES = "lab_writes"


def connect(url: str) -> Engine:
    """An engine for `url`.  Raises UsageError where that is none, or of a database that we do not
    know to lock."""
    try:
        made = sql.make_url(url)
        if made.drivername == "postgresql":
            made = made.set(drivername="postgresql+psycopg")
        kind = made.get_backend_name()
        if kind not in ("sqlite", "postgresql"):
            raise ArgumentError(f"{kind} is not supported")
        if kind == "sqlite" and made.database:
            Path(made.database).parent.mkdir(parents=True, exist_ok=True)
        waits = {"timeout": PATIENCE} if kind == "sqlite" else {}
        engine = sql.create_engine(made, connect_args=waits)
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError, OSError) as error:
        raise UsageError(
            f"no history can be kept there: {error}",
            where=_safe(url),
            cure="give sqlite:///FILE, or postgresql://USER@HOST/DATABASE",
        ) from error
    if kind == "sqlite":
        event.listen(engine, "connect", _sqlite)
        event.listen(engine, "begin", _begin)
    return engine


def _sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None  # it would begin transactions where it thinks fit
    connection.execute("PRAGMA journal_mode = WAL")  # readers and a writer side by side
    connection.execute("PRAGMA synchronous = NORMAL")  # what a crash loses is read again


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get(WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextlib.contextmanager
def told(url: str) -> Iterator[None]:
    """Turns a database's trouble into a LabError."""
    try:
        yield
    except (DBAPIError, TimeoutError) as error:
        what = error.orig if isinstance(error, DBAPIError) else error
        raise LabError(
            f"the history does not answer: {str(what).strip()}",
            where=_safe(url),
            cure="is the database up, and its disk not full?  `lab history rebuild` makes it anew",
        ) from error


@contextlib.contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction that no other writer is beside."""
    with engine.connect().execution_options(**{WRITES: True}) as connection, connection.begin():
        if engine.dialect.name == "postgresql":
            connection.execute(sql.select(sql.func.pg_advisory_xact_lock(LOCK)))
        yield connection


def prepare(engine: Engine, url: str) -> list[Path]:
    """Make the tables where they are not; what an older schema had read is forgotten, and its
    directories returned, to be read again.  Raises UsageError for a newer schema."""
    with writing(engine) as connection:
        if not sql.inspect(connection).has_table("meta"):
            _make(connection)
            return []
        wanted = sql.select(tables.meta.c.value).where(tables.meta.c.name == "schema")
        schema = int(connection.execute(wanted).scalar() or 0)
        if schema == tables.SCHEMA:
            return []
        if schema > tables.SCHEMA:
            raise UsageError(
                f"the history is of a newer harness: its schema is {schema}, ours {tables.SCHEMA}",
                where=_safe(url),
                cure="use that harness, or another history with --history URL",
            )
        paths = _paths(connection)
        _drop(connection)
        _make(connection)
        return paths


def clear(engine: Engine) -> list[Path]:
    """Forget all; returns the directories that were known."""
    with writing(engine) as connection:
        paths = _paths(connection) if sql.inspect(connection).has_table("meta") else []
        _drop(connection)
        _make(connection)
        return paths


def print_of(connection: Connection, table: sql.Table, name: str) -> tuple[str, str] | None:
    """The fingerprint and the path under which a run or night is known."""
    wanted = sql.select(table.c.print, table.c.path).where(table.c.name == name)
    row = connection.execute(wanted).first()
    return (row[0], row[1]) if row else None


def put(connection: Connection, run: ReadRun, seen: str) -> None:
    """A run, in place of what was known of it."""
    old = sql.select(tables.runs.c.id).where(tables.runs.c.name == run.name)
    if (number := connection.execute(old).scalar()) is not None:
        for table in (tables.failings, tables.results):
            connection.execute(table.delete().where(table.c.run == number))
        connection.execute(tables.runs.delete().where(tables.runs.c.id == number))
    facts = {
        "name": run.name,
        "path": str(run.path),
        "print": seen,
        "night": run.night or run.name,
        "nightly": bool(run.night),
        "target": run.target,
        "driver": run.driver,
        "kernel": run.kernel,
        "build": run.build,
        "started": run.started,
        "ended": run.ended,
        "how": run.how,
        "unfit": run.unfit,
        "boots": run.boots,
    }
    made = connection.execute(tables.runs.insert().values(**_storable(facts)))
    assert made.inserted_primary_key is not None
    number = made.inserted_primary_key[0]
    ids = _test_ids(connection, {test.test for test in run.tests})
    results: list[tuple[Any, ...]] = []
    failings: list[tuple[Any, ...]] = []
    for test in run.tests:
        key = (number, ids[test.test], test.attempt)
        verdict = test.verdict
        results.append(
            (
                *key,
                test.started,
                verdict.outcome,
                _text(verdict.reason),
                verdict.seconds,
                verdict.lockdep,
                verdict.fences,
                _text("\n".join(verdict.known)),
                _text("\n".join(verdict.fixed)),
                msgspec.json.encode(verdict.times).decode() if verdict.times else "",
            )
        )
        failings += [
            (*key, place, one.signature, _text(one.kind), one.severity, _text(one.title))
            for place, one in enumerate(test.failings)
        ]
    _insert(connection, tables.results, results)
    _insert(connection, tables.failings, failings)


def _insert(connection: Connection, table: sql.Table, rows: list[tuple[Any, ...]]) -> None:
    """Rows with all columns of `table`, in their order.

    By the driver's own executemany: SQLAlchemy's makes a dictionary of each row, looks each value
    up in it, and takes longer for that than SQLite does for the row.
    """
    if not rows:
        return
    mark = "?" if connection.dialect.paramstyle == "qmark" else "%s"
    names = ", ".join(f'"{column.name}"' for column in table.columns)
    marks = ", ".join([mark] * len(table.columns))
    connection.exec_driver_sql(f'INSERT INTO "{table.name}" ({names}) VALUES ({marks})', rows)


def put_night(connection: Connection, night: ReadNight, seen: str) -> None:
    """A nightly, in place of what was known of it."""
    targets = tables.night_targets
    connection.execute(targets.delete().where(targets.c.night == night.name))
    connection.execute(tables.nights.delete().where(tables.nights.c.name == night.name))
    connection.execute(
        tables.nights.insert().values(
            name=night.name,
            path=str(night.path),
            print=seen,
            started=night.started,
            ended=night.ended,
            how=night.how,
        )
    )
    if night.targets:
        rows = [
            _storable({"night": night.name, "target": target, "why": why})
            for target, why in night.targets.items()
        ]
        connection.execute(targets.insert(), rows)


def _text(text: str) -> str:
    """PostgreSQL's text holds no NUL; a kernel's may."""
    return text.replace("\0", "\ufffd")


def _storable(row: dict[str, Any]) -> dict[str, Any]:
    return {k: _text(v) if isinstance(v, str) else v for k, v in row.items()}


def _test_ids(connection: Connection, names: set[str]) -> dict[str, int]:
    test = tables.tests.c
    ids: dict[str, int] = {}
    for attempt in range(2):
        missing = sorted(names - ids.keys())
        if not missing:
            break
        if attempt:
            connection.execute(tables.tests.insert(), [{"name": name} for name in missing])
        for part in (missing[i : i + 500] for i in range(0, len(missing), 500)):
            wanted = sql.select(test.name, test.id).where(test.name.in_(part))
            ids |= {row[0]: row[1] for row in connection.execute(wanted)}
    return ids


def _make(connection: Connection) -> None:
    tables.ALL.create_all(connection)
    connection.execute(tables.meta.insert().values(name="schema", value=str(tables.SCHEMA)))


def _drop(connection: Connection) -> None:
    """Our tables as they are now, whatever schema they are of."""
    found = sql.MetaData()
    ours = {*tables.FORMER, *(table.name for table in tables.ALL.sorted_tables)}
    found.reflect(connection, only=lambda name, _: name in ours)
    found.drop_all(connection)


def _paths(connection: Connection) -> list[Path]:
    """The directories of all runs and nights, by the two columns that no schema changes."""
    paths = []
    for name in ("runs", "nights"):
        if sql.inspect(connection).has_table(name):
            wanted = sql.select(sql.column("path", sql.Text)).select_from(sql.table(name))
            paths += [Path(row[0]) for row in connection.execute(wanted)]
    return paths


def _safe(url: str) -> str:
    """`url` without its password."""
    try:
        return sql.make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return "--history"
