"""The history on a real PostgreSQL, which the test starts as a user without rights."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sql

from harness.errors import LabError
from harness.lab.diff import compare
from harness.lab.history import Added, History
from harness.tests.inner import ROOT
from harness.tests.nights import Test, night_of, run_of

HANG = "testcases/test_hang.py::test_recovers[gfx]"
# Of Debian's package; others have them in the path.
PLACES = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)


def binary(name: str) -> str:
    """Where it is; "" where it is not."""
    return shutil.which(name, path=os.pathsep.join([*PLACES, os.environ["PATH"]])) or ""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a server that listens on a socket in a directory of its own only."""
    if not binary("initdb"):
        pytest.skip("no PostgreSQL here: apt-get install postgresql")
    # Not pytest's: that one lets nobody else in.
    folder = Path(tempfile.mkdtemp(prefix="tdrlab-pg-"))
    data = folder / "data"
    user = pwd.getpwuid(os.geteuid()).pw_name
    begin: list[str] = []
    if os.geteuid() == 0:  # it refuses to run as root
        user = "nobody"
        nobody = pwd.getpwnam(user)
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        ids = [f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]
        begin = ["setpriv", *ids]

    def do(program: str, *args: str) -> None:
        subprocess.run(
            [*begin, binary(program), *args],
            check=True, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip

    # Nothing here must outlive a crash of the host, so nothing waits for its disk.
    settings = f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off"
    try:
        do("initdb", "-D", str(data), "--auth=trust", "--no-sync", "-E", "UTF8", "--locale=C")
        log = str(folder / "log")
        do("pg_ctl", "-D", str(data), "-w", "-t", "300", "-l", log, "-o", settings, "start")
        try:
            yield f"postgresql://{user}@/postgres?host={folder}"
        finally:
            do("pg_ctl", "-D", str(data), "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def url(server: str) -> str:
    """A database of the test's own."""
    engine = sql.create_engine(
        server.replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as connection:
        connection.execute(sql.text("drop database if exists history"))
        connection.execute(sql.text("create database history"))
    engine.dispose()
    return server.replace("/postgres?", "/history?")


def test_what_sqlite_says_postgres_says(url: str, tmp_path: Path) -> None:
    odd = Test(
        HANG,
        "fail",
        "WARNING in \N{SNOWMAN} %s 'x'\0" + "y" * 5000 + "",
        times={"tdr": 2.5},
        known=("a", "b"),
    )
    night_of(tmp_path, 0, {"navi": [Test(HANG)], "gen3": [odd]}, {"dead": "no route"})
    night_of(tmp_path, 1, {"navi": [odd], "gen3": [odd, Test("t.py::x", ended=False)]})
    run_of(tmp_path, "navi", [Test(HANG.replace("]", "-@2]"))], day=2)
    with History.open(f"sqlite:///{tmp_path}/h.sqlite") as small, History.open(url) as large:
        for history in (small, large):
            assert history.add([tmp_path]) == Added(read=5, known=0, results=6)
            assert history.add([tmp_path]) == Added(read=0, known=5, results=0)
        assert large.results() == small.results()
        assert large.nights(nightly=False) == small.nights(nightly=False)
        assert large.runs() == small.runs()
        assert large.sightings() == small.sightings()
        signature = large.sightings()[0].signature
        assert large.results(signature=signature) == small.results(signature=signature) != []
        assert compare(large).changes == compare(small).changes != ()
        assert large.rebuild([]).read == 5
        assert large.results() == small.results()


def test_an_older_schema_is_made_anew(url: str, tmp_path: Path) -> None:
    night_of(tmp_path, 0, {"navi": [Test(HANG)]})
    with History.open(url) as history:
        history.add([tmp_path])
        before = history.results()
    engine = sql.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        connection.execute(sql.text("update meta set value = '0'"))
        connection.execute(sql.text("drop table failings"))
        # Schema 1 had it; the server drops nothing that it refers to.
        connection.execute(sql.text("create table times (run integer references runs(id))"))
    engine.dispose()
    with History.open(url) as history:
        assert history.results() == before != []


def test_two_processes_at_once(url: str, tmp_path: Path) -> None:
    for day in range(10):
        run_of(tmp_path, "navi", [Test(f"t.py::test_{n}") for n in range(5)], day=day)
    code = (
        "import sys; from pathlib import Path; from harness.lab.history import *\n"
        "with History.open(sys.argv[1]) as h: h.add([Path(sys.argv[2])])"
    )
    argv = [sys.executable, "-c", code, url, str(tmp_path)]
    beside = [subprocess.Popen(argv, cwd=ROOT) for _ in range(2)]
    assert [process.wait(300) for process in beside] == [0, 0]
    with History.open(url) as history:
        assert len(history.results()) == 50


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="does not answer") as told:
        History.open(f"postgresql://me:secret@/x?host={tmp_path}")
    assert "secret" not in str(told.value)
