"""The set-up cache: keys, whole-or-absent products, locks across processes and kills."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from harness.errors import LabError
from tools.setup.cache import Cache, digest, digest_files, write_atomic
from tools.setup.command import run

ROOT = Path(__file__).parents[3]


def test_digest_tells_lists_apart_that_join_to_the_same_text() -> None:
    assert digest("ab", "c") != digest("a", "bc")
    assert digest("ab", "c") == digest(b"ab", "c")


def test_file_digest_sees_name_content_and_executable_bit(tmp_path: Path) -> None:
    one = tmp_path / "one"
    one.write_text("x")
    seen = {digest_files(tmp_path, [one])}
    one.chmod(0o755)
    seen.add(digest_files(tmp_path, [one]))
    one.write_text("y")
    seen.add(digest_files(tmp_path, [one]))
    one.rename(tmp_path / "two")
    seen.add(digest_files(tmp_path, [tmp_path / "two"]))
    assert len(seen) == 4


def test_a_product_is_whole_or_absent(tmp_path: Path) -> None:
    cache = Cache(tmp_path)

    def fail() -> None:
        with cache.making("step", "k1") as part:
            (part / "half").write_text("")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not cache.product("step", "k1").exists()
    with cache.making("step", "k1") as part:
        assert list(part.iterdir()) == [], "leftovers of the failed run are gone"
        (part / "all").write_text("done")
    assert (cache.product("step", "k1") / "all").read_text() == "done"
    assert sorted(p.name for p in (tmp_path / "step").iterdir()) == ["k1"]


def test_prune_keeps_what_is_in_use_or_was_used_lately(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    for key in ("current", "recent", "old"):
        with cache.making("step", key):
            pass
    os.utime(cache.product("step", "old"), (0, 0))
    os.utime(cache.product("step", "current"), (0, 0))
    gone = cache.prune("step", keep=cache.product("step", "current"))
    assert gone == [cache.product("step", "old")]
    assert cache.product("step", "recent").exists()
    assert cache.product("step", "current").exists()


def test_write_atomic_leaves_no_partial_file(tmp_path: Path) -> None:
    path = tmp_path / "made" / "file"
    write_atomic(path, b"one", 0o600)
    write_atomic(path, b"two", 0o600)
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_an_unwritable_cache_is_the_labs_fault_with_a_cure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(LabError, match="XDG_CACHE_HOME"),
        Cache(tmp_path / "file").lock("step", print),
    ):
        pass


HOLDER = """
import sys, time
from pathlib import Path
from tools.setup.cache import Cache
with Cache(Path(sys.argv[1])).lock("step", print):
    print("held", flush=True)
    time.sleep(60)
"""


def _holder(root: Path, code: str = HOLDER) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(root)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    return child


def test_the_second_waits_and_is_told_for_whom(tmp_path: Path) -> None:
    child = _holder(tmp_path)
    told: list[str] = []
    got = threading.Event()

    def second() -> None:
        with Cache(tmp_path).lock("step", told.append):
            got.set()

    thread = threading.Thread(target=second)
    thread.start()
    while not told:
        time.sleep(0.01)
    assert f"process {child.pid}" in told[0]
    assert not got.is_set()
    child.send_signal(signal.SIGKILL)  # a killed holder's lock is free
    thread.join()
    assert got.is_set()
    child.wait()


def test_a_tool_that_outlives_its_killed_setup_keeps_the_lock(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from tools.setup.cache import Cache
from tools.setup.command import run
root = Path(sys.argv[1])
with Cache(root).lock("step", print) as lock:
    tool = "import os, pathlib, sys, time; pathlib.Path(sys.argv[1]).write_text(str(os.getpid()));"
    tool += "print('held', flush=True); time.sleep(60)"
    run([sys.executable, "-c", tool, root / "pid"], log=root / "log", lock=lock,
        on_line=lambda line: print(line, flush=True))
"""
    child = _holder(tmp_path, code)
    tool = int((tmp_path / "pid").read_text())
    child.send_signal(signal.SIGKILL)
    child.wait()
    told: list[str] = []
    got = threading.Event()

    def second() -> None:
        with Cache(tmp_path).lock("step", told.append):
            got.set()

    thread = threading.Thread(target=second)
    thread.start()
    while not told:
        time.sleep(0.01)
    assert not got.is_set()
    os.kill(tool, signal.SIGKILL)
    thread.join()
    assert got.is_set()


def test_a_failed_tool_shows_its_last_lines_and_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    tool = (
        "print('sim.c:7: error: no such thing')\n"
        "for i in range(40): print('line', i)\nraise SystemExit(7)"
    )
    with (
        Cache(tmp_path).lock("step", print) as lock,
        pytest.raises(LabError) as caught,
    ):
        run([sys.executable, "-c", tool], log=log, lock=lock)
    message = str(caught.value)
    assert "status 7" in message
    assert "line 39" in message
    assert "sim.c:7: error: no such thing" in message, "the line that tells why"
    assert "line 20\n" not in message
    assert str(log) in message
    assert "line 0\n" in log.read_text()


def test_a_tool_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with Cache(tmp_path).lock("step", print) as lock, pytest.raises(LabError, match="no-such"):
        run(["/no-such-tool"], log=tmp_path / "log", lock=lock)
