"""Evidence: what was written survives, and a trouble of the disk is the lab's."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import LabError, UsageError
from harness.evidence import files, journal
from harness.evidence.boot import Boot
from harness.evidence.files import Stream, read_json, write_json
from harness.evidence.journal import Journal
from harness.evidence.rundir import RunDir, slug


def test_journal_names_the_test_that_was_running(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path\n"
        "from harness.evidence.rundir import RunDir\n"
        "run = RunDir.create(Path(sys.argv[1]), 'box')\n"
        "for test in ('a', 'b'):\n"
        "    run.journal.add('test-start', test=test)\n"
        "    if test == 'a': run.journal.add('test-end', test=test)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)])
    assert done.returncode == -signal.SIGKILL
    (path,) = tmp_path.iterdir()
    assert journal.unfinished(path / "journal.jsonl") == ["b"]


def test_torn_journal_is_readable_and_appendable(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"what":"test-start","test":"a"}\n{"what":"test-e')
    assert journal.unfinished(path) == ["a"]
    mine = Journal(path)
    mine.add("test-end", test="a")
    mine.close()
    assert journal.unfinished(path) == []
    assert [entry["what"] for entry in journal.read(path)] == ["test-start", "test-end"]


def test_full_disk_is_a_lab_error_told_once_and_kept() -> None:
    stream = Stream(Path("/dev/full"), 1 << 20)
    stream.write(b"does not fit")
    with pytest.raises(LabError, match="No space left") as caught:
        stream.check()
    assert "free space" in caught.value.cure
    stream.close()


def test_full_disk_while_writing_facts(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if (
        os.geteuid()
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=8k", "none", str(small)], capture_output=True
        ).returncode
    ):
        pytest.skip("mounting a small tmpfs needs root")
    try:
        write_json(small / "facts.json", {"old": True})
        with pytest.raises(LabError, match="No space left"):
            write_json(small / "facts.json", {"much": "x" * 100_000})
        assert read_json(small / "facts.json") == {"old": True}
        assert [p.name for p in small.iterdir()] == ["facts.json"]
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_stream_past_its_limit_says_so(tmp_path: Path) -> None:
    with Stream(tmp_path / "kmsg", 10) as stream:
        stream.write(b"12345678")
        stream.check()
        stream.write(b"90123")
        with pytest.raises(LabError, match="limit of 10 bytes"):
            stream.check()
    assert (tmp_path / "kmsg").read_bytes() == b"12345678"


def test_pending_boot_takes_its_name_and_streams_go_on(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, "box")
    boot = Boot(run, 1 << 20)
    boot.console(b"SeaBIOS\r\n")
    boot.name("1234")
    boot.console(b"Linux\r\n")
    boot.kmsg(b"4,1,1,-;hello\n")
    boot.close()
    path = run.path / "boot-1234"
    assert (path / "console.log").read_bytes() == b"SeaBIOS\r\nLinux\r\n"
    assert (path / "kmsg").read_bytes() == b"4,1,1,-;hello\n"
    assert not list(run.path.glob("boot-pending-*"))


def test_a_boot_that_is_reached_again_goes_on_where_it_was(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, "box")
    first = Boot(run, 1 << 20)
    first.name("1234")
    first.console(b"a line th")
    first.netconsole(b"one\n")
    again = Boot(run, 1 << 20)
    first.close()
    again.console(b"at was cut\r\n")
    again.netconsole(b"two\n")
    again.name("1234")
    again.console(b"after\r\n")
    again.netconsole(b"three\n")
    again.check()
    again.close()
    path = run.path / "boot-1234"
    assert (path / "console.log").read_bytes() == b"a line that was cut\r\nafter\r\n"
    assert (path / "netconsole.log").read_bytes() == b"one\ntwo\nthree\n"
    assert not list(run.path.glob("boot-pending-*"))


def test_a_boot_that_a_full_disk_kept_from_being_taken_up_is_taken_up_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDir.create(tmp_path, "box")
    first = Boot(run, 1 << 20)
    first.name("1234")
    first.console(b"one\r\n")
    first.close()
    again = Boot(run, 1 << 20)
    again.console(b"two\r\n")
    again.netconsole(b"two\n")
    whole = again._append

    def full(cut: Stream) -> Stream:
        if cut.path.name == "netconsole.log":
            raise LabError("No space left on device", where="disk", cure="free it")
        return whole(cut)

    monkeypatch.setattr(again, "_append", full)
    with pytest.raises(LabError):
        again.name("1234")
    monkeypatch.setattr(again, "_append", whole)
    again.name("1234")
    again.console(b"three\r\n")
    again.check()
    again.close()
    path = run.path / "boot-1234"
    assert (path / "console.log").read_bytes() == b"one\r\ntwo\r\nthree\r\n"
    assert (path / "netconsole.log").read_bytes() == b"two\n"


def test_run_facts_merge(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, "box")
    run.update(kernel="6.12", boots=["a"])
    run.update(boots=["a", "b"])
    assert run.facts() == {"kernel": "6.12", "boots": ["a", "b"]}


def test_opening_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a run directory"):
        RunDir.open(tmp_path)


def test_slugs_are_readable_and_never_collide() -> None:
    tests = ["testcases/a.py::t[x]", "testcases/a.py::t[y]", "a.py/t[x]", "a.py__t[x]", "../../etc"]
    slugs = [slug(test) for test in tests]
    assert len(set(slugs)) == len(tests)
    assert all("/" not in s and s.strip(".") for s in slugs)
    assert slugs[0].startswith("a.py_t[x]")
    assert len(slug("x" * 500)) <= 120


def test_a_reserve_is_given_up_for_what_must_be_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDir.create(tmp_path, "box")
    reserve = run.path / files.RESERVE
    assert reserve.stat().st_size == files.RESERVE_BYTES
    replace = files._replace

    def full(path: Path, data: bytes, derived: bool) -> None:
        if reserve.exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(path, data, derived)

    monkeypatch.setattr(files, "_replace", full)
    files.write_bytes(run.test("t") / "verdict.json", b"{}")
    assert (run.test("t") / "verdict.json").read_bytes() == b"{}"
    assert not reserve.exists()
    assert not files.give_room(run.path / "x", OSError(errno.ENOSPC, "full")), "there is no other"
    files.reserve(run.path)
    assert not files.give_room(run.path / "x", OSError(errno.EIO, "broken"))
    assert reserve.exists()


def test_a_line_cut_short_does_not_swallow_the_next(tmp_path: Path) -> None:
    path = tmp_path / "kmsg"
    path.write_bytes(b"6,1,1,-;whole\n6,2,2,-;cu")
    with files.Stream(path, 1 << 16) as stream:
        stream.begin_line()
        stream.begin_line()
        stream.write(b"6,2,2,-;cut\n")
    assert path.read_bytes().splitlines()[1:] == [b"6,2,2,-;cu", b"6,2,2,-;cut"]


def test_a_stream_is_on_the_disk_when_it_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    brought: list[int] = []
    real = os.fdatasync

    def bring(fd: int) -> None:
        brought.append(fd)
        real(fd)

    monkeypatch.setattr(os, "fdatasync", bring)
    stream = Stream(tmp_path / "kmsg", 100)
    stream.write(b"last words")
    stream.close()
    assert len(brought) == 1
    stream.close()
    stream.sync()
    assert len(brought) == 1, "there is nothing left to bring"
    # Of another process, which may have been killed: nobody knows whether it is there.
    Stream(tmp_path / "kmsg", 100).close()
    assert len(brought) == 2
    Stream(tmp_path / "empty", 100).close()
    assert len(brought) == 2
