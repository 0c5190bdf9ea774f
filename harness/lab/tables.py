"""The history's tables: an index over run directories, never the only copy of anything.

SQLAlchemy Core, so that SQLite and PostgreSQL are the same to us.  There are no migrations:
`SCHEMA` goes up with any change here, and an older history is made anew from the directories.
"""

from __future__ import annotations

from sqlalchemy import Boolean, Column, Float, ForeignKey, Index, Integer, MetaData, Table
from sqlalchemy import Text as LongText

__all__ = [
    "ALL",
    "FORMER",
    "SCHEMA",
    "failings",
    "meta",
    "night_targets",
    "nights",
    "results",
    "runs",
    "tests",
]

SCHEMA = 2
FORMER = ("times",)
"""Tables of older schemas, which go when a history is made anew."""

ALL = MetaData()

# The schema, under the name "schema".  This table, and the columns `name` and `path` of runs and
# nights, stay as they are for ever: from them an older history is rebuilt.
meta = Table(
    "meta",
    ALL,
    Column("name", LongText, primary_key=True),
    Column("value", LongText, nullable=False),
)

# Times are seconds since the epoch, by the clock of the host that ran the tests.
nights = Table(
    "nights",
    ALL,
    Column("name", LongText, primary_key=True),
    Column("path", LongText, nullable=False),
    Column("print", LongText, nullable=False),
    Column("started", Float, nullable=False, index=True),
    Column("ended", Float),
    Column("how", LongText, nullable=False),
)

night_targets = Table(
    "night_targets",
    ALL,
    Column("night", LongText, primary_key=True),
    Column("target", LongText, primary_key=True),
    Column("why", LongText, nullable=False),
)

runs = Table(
    "runs",
    ALL,
    Column("id", Integer, primary_key=True),
    Column("name", LongText, nullable=False, unique=True),
    Column("path", LongText, nullable=False),
    # What the directory looked like when it was read: unchanged, it is not read again.
    Column("print", LongText, nullable=False),
    # The nightly that it belongs to; of any other run its own name.
    Column("night", LongText, nullable=False, index=True),
    Column("nightly", Boolean, nullable=False),
    Column("target", LongText, nullable=False, index=True),
    Column("driver", LongText, nullable=False),
    Column("kernel", LongText, nullable=False),
    Column("build", LongText, nullable=False),
    Column("started", Float, nullable=False, index=True),
    Column("ended", Float),
    Column("how", LongText, nullable=False),
    Column("unfit", LongText, nullable=False),
    Column("boots", Integer, nullable=False),
)

tests = Table(
    "tests",
    ALL,
    Column("id", Integer, primary_key=True),
    Column("name", LongText, nullable=False, unique=True),
)

_RUN = ("runs.id",)

results = Table(
    "results",
    ALL,
    Column("run", Integer, ForeignKey(*_RUN), primary_key=True),
    Column("test", Integer, ForeignKey("tests.id"), primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("started", Float, nullable=False),
    Column("outcome", LongText, nullable=False),
    Column("reason", LongText, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("lockdep", LongText, nullable=False),
    Column("fences", LongText, nullable=False),
    # Names of entries of known-issues.toml, with newlines between.
    Column("known", LongText, nullable=False),
    Column("fixed", LongText, nullable=False),
    # How long recovery took, in seconds, as JSON: see harness.account.durations for the words.
    # A table of their own would be three more rows for most results.
    Column("times", LongText, nullable=False),
    Index("results_of_test", "test", "run"),
)

# Findings of the severities fail and unknown; notes stay in the run directory.
failings = Table(
    "failings",
    ALL,
    Column("run", Integer, ForeignKey(*_RUN), primary_key=True),
    Column("test", Integer, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("signature", LongText, nullable=False, index=True),
    Column("kind", LongText, nullable=False),
    Column("severity", LongText, nullable=False),
    Column("title", LongText, nullable=False),
)
