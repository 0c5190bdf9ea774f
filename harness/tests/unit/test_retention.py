"""What is compressed reads as before, what is pruned leaves its verdicts, what is needed stays."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import zstandard
from click.testing import CliRunner

from harness.cli import main
from harness.errors import LabError
from harness.evidence.boot import Boot
from harness.evidence.packed import SUFFIX, pack, plain
from harness.evidence.rundir import RunDir, Window
from harness.lab import prune
from harness.lab.diff import WINDOW
from harness.lab.history import History, default_url
from harness.lab.ingest import runs_in
from harness.tests.inner import ROOT
from harness.tests.nights import DAY, FIRST, Test, night_of, run_of
from harness.verdict import slice_of

HANG = "testcases/test_hang.py::test_recovers[gfx]"
LINES = b"".join(b"6,%d,%d,-;drm: line %d of the log\n" % (n, n * 1000, n) for n in range(2000))


def with_log(path: Path) -> Path:
    """A kernel log, of a run's boot."""
    (path / "boot-b0").mkdir()
    log = path / "boot-b0" / "kmsg"
    log.write_bytes(LINES)
    return log


def test_a_packed_stream_reads_as_before(tmp_path: Path) -> None:
    log = with_log(tmp_path)
    offset = LINES.index(b"6,1500,")
    window = Window(test="t", boot_id="b0", first_seq=1500, offset=offset, last_seq=1600)
    before, when = list(slice_of(tmp_path, window)), log.stat().st_mtime_ns
    assert len(before) == 101
    assert pack(log) > len(LINES) / 2
    assert not log.exists()
    assert log.with_name("kmsg.zst").stat().st_mtime_ns == when
    assert list(slice_of(tmp_path, window)) == before
    assert plain(log).read_bytes() == LINES
    assert plain(log) == plain(log)
    assert [path.name for path in log.parent.iterdir()] == ["kmsg.zst"]


def test_both_forms_after_a_crash_are_one_stream(tmp_path: Path) -> None:
    log = with_log(tmp_path)
    pack(log)
    log.write_bytes(b"what was there first\n")
    assert plain(log) == log


def test_a_packed_stream_that_goes_on_is_whole(tmp_path: Path) -> None:
    """A run may be resumed on the very boot whose streams were compressed."""
    run = RunDir(tmp_path)
    log = with_log(tmp_path)
    pack(log)
    boot = Boot(run, 1 << 20)
    boot.name("b0")
    boot.kmsg(b"6,2000,2000000,-;more\n")
    boot.close()
    run.close()
    assert log.read_bytes() == LINES + b"6,2000,2000000,-;more\n"
    assert not log.with_name("kmsg.zst").exists()


def test_a_packed_stream_is_never_lost_to_another(tmp_path: Path) -> None:
    log = with_log(tmp_path)
    pack(log)
    log.write_bytes(b"another\n")
    assert pack(log) == 0
    packed = log.with_name("kmsg.zst").read_bytes()
    assert zstandard.ZstdDecompressor().decompressobj().decompress(packed) == LINES
    assert log.read_bytes() == b"another\n"
    # What a crash left is packed again.
    log.write_bytes(LINES + b"more\n")
    assert pack(log) > 0
    assert plain(log).read_bytes() == LINES + b"more\n"
    assert not log.exists()


def test_a_damaged_one_is_told(tmp_path: Path) -> None:
    log = with_log(tmp_path)
    pack(log)
    packed = log.with_name("kmsg.zst")
    damaged = bytearray(packed.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    packed.write_bytes(damaged)
    with pytest.raises(LabError, match="cannot read evidence"):
        plain(log)


def test_what_was_unpacked_goes_with_the_process(tmp_path: Path) -> None:
    log = with_log(tmp_path)
    pack(log)
    code = "import sys; from pathlib import Path; from harness.evidence.packed import *\n"
    code += "print(plain(Path(sys.argv[1])))"
    argv = [sys.executable, "-c", code, str(log)]
    done = subprocess.run(argv, cwd=ROOT, text=True, capture_output=True, check=True)
    assert done.stdout.strip() != str(log)
    assert not Path(done.stdout.strip()).parent.exists()


def test_many_are_read_with_few_kept(tmp_path: Path) -> None:
    logs = []
    for number in range(20):
        log = tmp_path / f"boot-{number}" / "kmsg"
        log.parent.mkdir()
        log.write_bytes(b"%d" % number)
        pack(log)
        logs.append(log)
    first = plain(logs[0])
    assert [plain(log).read_bytes() for log in logs] == [b"%d" % n for n in range(20)]
    assert not first.exists()
    assert plain(logs[0]).read_bytes() == b"0"


def test_a_folder_is_there_as_a_whole(tmp_path: Path) -> None:
    """A trace asks for the pages of every CPU before it opens any."""
    pages = [tmp_path / f"cpu{number}.raw" for number in range(40)]
    for page in pages:
        page.write_bytes(page.name.encode())
        pack(page)
    there = [plain(page) for page in pages]
    assert [file.read_bytes() for file in there] == [page.name.encode() for page in pages]


def pruned(runs: Path, now: float, size: int | None = None, dry: bool = False) -> dict[str, str]:
    """What is done to each run, 2 days for streams and 60 for evidence."""
    with History.open(default_url(runs)) as history:
        history.add([runs])
        needed = prune.open_runs(history.results())
    deeds = prune.prune(
        runs, needed, compress_s=2 * DAY, keep_s=60 * DAY, size=size, now=now, dry=dry
    )
    return {deed.run.name: deed.what for deed in deeds}


def test_old_evidence_goes_and_its_verdicts_stay(tmp_path: Path) -> None:
    old, middle, new = (run_of(tmp_path, "navi", [Test(HANG)], day=day) for day in (0, 60, 69))
    for path in (old, middle, new):
        with_log(path)
        (RunDir.open(path).test(HANG) / "fences.svg").write_text("<svg/>")
    now = FIRST + 70 * DAY
    assert pruned(tmp_path, now, dry=True) == {old.name: "pruned", middle.name: "compressed"}
    assert (old / "boot-b0").exists()
    assert pruned(tmp_path, now) == {old.name: "pruned", middle.name: "compressed"}
    assert not (old / "boot-b0").exists()
    assert [p.name for p in RunDir.open(old).test(HANG).iterdir()] == ["verdict.json"]
    assert [p.name for p in (middle / "boot-b0").iterdir()] == ["kmsg.zst"]
    assert [p.name for p in (new / "boot-b0").iterdir()] == ["kmsg"]
    assert pruned(tmp_path, now) == {}
    with History.open(default_url(tmp_path)) as history:
        before = history.results()
        history.rebuild([])
        assert history.results() == before
        assert len(before) == 3
    assert (prune.pruned(old), prune.pruned(middle)) == (True, False)


def test_evidence_of_what_still_fails_stays(tmp_path: Path) -> None:
    """Of each failure that lasts the first and the last run; what was fixed goes."""
    bad = Test(HANG, "fail", "WARNING in x")
    lasts = [run_of(tmp_path, "navi", [bad], day=day) for day in range(3)]
    fixed = run_of(tmp_path, "gen3", [bad])
    for hour in range(WINDOW):
        run_of(tmp_path, "gen3", [Test(HANG)], day=100, hour=hour)
    for path in (*lasts, fixed):
        with_log(path)
    done = pruned(tmp_path, FIRST + 101 * DAY)
    assert done == {
        lasts[0].name: "compressed",
        lasts[1].name: "pruned",
        lasts[2].name: "compressed",
        fixed.name: "pruned",
    }


def test_evidence_of_a_flake_outlasts_its_passes(tmp_path: Path) -> None:
    bad, good = Test(HANG, "fail", "WARNING in x"), Test(HANG)
    flake = run_of(tmp_path, "navi", [bad])
    for day in range(1, WINDOW):
        # What is repeated in one run counts once.
        again = [Test(HANG.replace("]", f"-@{nth}]")) for nth in range(2, 6)]
        run_of(tmp_path, "navi", [good, *again], day=day)
    with_log(flake)
    assert pruned(tmp_path, FIRST + 100 * DAY) == {flake.name: "compressed"}
    run_of(tmp_path, "navi", [good], day=WINDOW)
    assert pruned(tmp_path, FIRST + 100 * DAY)[flake.name] == "pruned"


def test_each_finding_keeps_its_own_first_run(tmp_path: Path) -> None:
    """One test shows A, then B: the first of B is not in the midst of A's."""
    a, b = Test(HANG, "fail", "WARNING in a"), Test(HANG, "fail", "WARNING in b")
    runs = [run_of(tmp_path, "navi", [test], day=day) for day, test in enumerate([a, a, b, b, b])]
    for path in runs:
        with_log(path)
    done = pruned(tmp_path, FIRST + 100 * DAY)
    assert [done[path.name] for path in runs] == [
        "compressed", "compressed", "compressed", "pruned", "compressed",
    ]  # fmt: skip


def test_a_size_takes_the_oldest_first(tmp_path: Path) -> None:
    paths = [run_of(tmp_path, "navi", [Test(HANG)], day=day) for day in range(3)]
    for path in paths:
        with_log(path).write_bytes(os.urandom(1 << 20))
    now = FIRST + 2.5 * DAY
    assert pruned(tmp_path, now, size=(5 << 20) // 2) == {paths[0].name: "pruned"}
    assert (paths[1] / "boot-b0").exists()


def test_a_bisect_is_no_run(tmp_path: Path) -> None:
    """It has a journal: it must neither be judged nor crowd out what is one."""
    path = run_of(tmp_path, "navi", [Test(HANG)])
    with_log(path)
    bisect = tmp_path / "bisect-20260501T010000Z-navi"
    bisect.mkdir()
    (bisect / "bisect.json").write_text("{}")
    (bisect / "journal.jsonl").write_bytes((path / "journal.jsonl").read_bytes())
    (bisect / "kernel").write_bytes(bytes(4 << 20))
    assert runs_in(tmp_path) == [path]
    assert runs_in(bisect) == []
    assert pruned(tmp_path, FIRST + DAY, size=2 << 20) == {}
    with History.open(default_url(tmp_path)) as history:
        assert [run.target for run in history.runs()] == ["navi"]


def test_a_pruned_run_is_not_judged_by_what_is_left(tmp_path: Path) -> None:
    (tmp_path / "targets.toml").write_text(
        '[targets.navi]\ndriver = "amdgpu"\nvm = { gpu = "ati-vga" }\n'
    )
    runs = tmp_path / "runs"
    night_of(runs, 0, {"navi": [Test(HANG)]})
    (path,) = runs_in(runs)
    with_log(path)
    lab = [f"--inventory={tmp_path}/targets.toml"]
    done = CliRunner().invoke(main, [*lab, "prune", "--keep=1d"])
    assert done.exit_code == 0, done.output
    assert "pruned" in done.output
    one = CliRunner().invoke(main, [*lab, "replay", str(path)])
    assert (one.exit_code, "cannot be judged again" in one.output) == (3, True)
    every = CliRunner().invoke(main, [*lab, "replay", "--all"])
    assert every.exit_code == 0, every.output
    assert "1 runs judged again, 0 verdicts changed; 1 were pruned" in every.output


def test_replay_shows_what_changed(tmp_path: Path) -> None:
    (tmp_path / "targets.toml").write_text(
        '[targets.navi]\ndriver = "amdgpu"\nvm = { gpu = "ati-vga" }\n'
    )
    path = run_of(tmp_path / "runs", "navi", [Test(HANG, "fail", "an old parser said so")])
    window = Window(
        test=HANG, boot_id="b0", first_seq=0, offset=0, last_seq=1999, body="passed",
        health_before={"debug_locks": 1}, health_after={"debug_locks": 1},
    )  # fmt: skip
    (RunDir.open(path).test(HANG) / "window.json").write_bytes(msgspec.json.encode(window))
    pack(with_log(path))
    lab = [f"--inventory={tmp_path}/targets.toml", "replay"]
    done = CliRunner().invoke(main, [*lab, "--all"])
    assert done.exit_code == 0, done.output
    assert f"{path.name}: pass       {HANG}\n" in done.output
    assert "it was fail: an old parser said so" in done.output
    assert "1 runs judged again, 1 verdicts changed" in done.output
    again = CliRunner().invoke(main, [*lab, str(path)])
    assert "0 changed" in again.output
    assert CliRunner().invoke(main, lab).exit_code == 2


def test_the_suffix_is_zstds() -> None:
    """`zstdless` and `zstdcat` go by it."""
    assert SUFFIX == ".zst"
    assert zstandard.FRAME_HEADER == b"\x28\xb5\x2f\xfd"
