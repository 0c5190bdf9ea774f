"""What a dead boot left on its target: pstore, and the directory of kdump."""

from __future__ import annotations

import os
import subprocess
from base64 import b64encode
from pathlib import Path
from typing import Any, cast

import pytest

from harness import ways
from harness.deadline import Deadline
from harness.errors import TargetError
from harness.evidence import journal
from harness.evidence.rundir import RunDir
from harness.kernel import pstore as files
from harness.lastwords import last_words
from harness.link.agent import Agent
from harness.live import kdump, pstore

OLD, NEW = "old-boot", "new-boot"
SAID = [f"[{n:5}.000000] something happens {n}" for n in range(40)]
PANIC = "[   41.000000] Kernel panic - not syncing: by hand"


class Disk:
    """An agent of which only the disk is there: this host's."""

    alive = True

    def call(self, op: str, deadline: Deadline, **args: Any) -> dict[str, Any]:
        if op == "run":
            done = subprocess.run(args["argv"], capture_output=True, text=True)
            return {"status": done.returncode, "stdout": done.stdout, "stderr": done.stderr}
        path = Path(args["path"])
        try:
            if op == "listdir":
                return {"names": sorted(os.listdir(path))}
            with path.open("rb") as file:
                file.seek(args.get("offset", 0))
                return {"data": b64encode(file.read(args["limit"])).decode()}
        except OSError as error:
            raise TargetError(str(error), where=str(path)) from error


@pytest.fixture
def agent() -> Agent:
    return cast("Agent", Disk())


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run whose first boot died in a test: kmsg has all that was said but the panic."""
    made = RunDir.create(tmp_path, "box")
    lines = (f"6,{n},{n}000000,-;{line.partition('] ')[2]}" for n, line in enumerate(SAID, start=0))
    (made.boot(OLD) / "kmsg").write_text("".join(f"{line}\n" for line in lines))
    made.boot(NEW)
    made.journal.add("test-start", test="t::innocent", boot=OLD)
    made.journal.add("test-start", test="t::guilty", boot=OLD)
    return made


def _told(run: RunDir, what: str) -> list[dict[str, Any]]:
    return [entry for entry in journal.read(run.journal.path) if entry["what"] == what]


def _crash(place: Path, folder: str, names: tuple[str, str], log: list[str]) -> Path:
    """As a crash kernel leaves it."""
    made = place / folder
    made.mkdir(parents=True)
    (made / names[0]).write_text("".join(f"{line}\n" for line in log))
    (made / names[1]).write_bytes(b"KDUMP   " * 400)
    return made


@pytest.mark.parametrize(
    ("folder", "names"),
    [
        ("202611230715", ("dmesg.202611230715", "dump.202611230715")),
        ("127.0.0.1-2026-11-23-07:15:31", ("vmcore-dmesg.txt", "vmcore")),
    ],
    ids=["debian", "fedora"],
)
def test_what_a_crash_kernel_wrote_is_of_the_boot_and_test_that_died(
    run: RunDir, agent: Agent, tmp_path: Path, folder: str, names: tuple[str, str]
) -> None:
    place = tmp_path / "crash"
    before = _crash(place, "202601010000", ("dmesg.202601010000", "dump.202601010000"), ["x"])
    (place / "_usr_bin_something.0.crash").write_text("another's report")
    spec = ways.Kdump(directory=str(place))
    kdump.collect(agent, run, [OLD], spec, Deadline(60))
    died = _crash(place, folder, names, [*SAID, PANIC])
    for _ in range(2):  # at the boot after, and at the next one
        kdump.collect(agent, run, [OLD, NEW], spec, Deadline(60))
    assert [(e["path"], e["boot"], e["test"]) for e in _told(run, "kdump")] == [
        (str(before), "", ""),
        (str(died), OLD, "t::guilty"),
    ]
    assert _told(run, "kdump")[1]["memory"] == str(died / names[1])
    kept = list((run.boot(OLD) / "kdump").iterdir())
    assert [path.suffix for path in kept] == [".txt"], "the log, not the memory"
    stream, words = last_words(run.boot(OLD), 39_000_000)
    assert stream == f"kdump/{kept[0].name}"
    assert [record.text for record in words] == ["Kernel panic - not syncing: by hand"]
    assert (died / names[1]).exists(), "nothing there is ours to remove"


@pytest.mark.parametrize(("limit", "copied"), [(1, True), (0, False)])
def test_memory_is_copied_only_where_it_is_asked_for_and_fits(
    run: RunDir, agent: Agent, tmp_path: Path, limit: int, copied: bool
) -> None:
    place = tmp_path / "crash"
    names = ("dmesg.202611230715", "dump.202611230715")
    died = _crash(place, "202611230715", names, [*SAID, PANIC])
    kdump.collect(agent, run, [OLD, NEW], ways.Kdump(directory=str(place)), Deadline(60))
    # The same once more, from another folder, under a limit of its own.
    other = died.with_name("202611230716")
    other.mkdir()
    for name in names:
        (other / name.replace("0715", "0716")).write_bytes((died / name).read_bytes())
    spec = ways.Kdump(directory=str(place), vmcore_mib=limit)
    kdump.collect(agent, run, [OLD, NEW], spec, Deadline(60))
    copy = run.boot(OLD) / "kdump" / "dump.202611230716"
    assert copy.exists() == copied
    if copied:
        assert copy.read_bytes() == (other / copy.name).read_bytes()
    with (other / copy.name).open("ab") as file:
        file.truncate((1 << 20) + 1)
    third = other.rename(other.with_name("202611230717"))
    kdump.collect(agent, run, [OLD, NEW], spec, Deadline(60))
    left = [(entry["path"], entry["size"]) for entry in _told(run, "kdump-left")]
    assert left == ([(f"{third}/{copy.name}", (1 << 20) + 1)] if copied else [])
    assert not list(run.path.rglob("*.part"))


def test_a_target_without_any_says_nothing(run: RunDir, agent: Agent, tmp_path: Path) -> None:
    spec = ways.Kdump(directory=str(tmp_path / "nowhere"))
    kdump.collect(agent, run, [OLD, NEW], spec, Deadline(60))
    assert _told(run, "kdump") == []
    assert not (run.boot(OLD) / "kdump").exists()


def test_the_parts_of_an_efi_dump_are_one(
    run: RunDir, agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As systemd-pstore lays them down; the panic alone shares no line with any log."""
    archive = tmp_path / "archive"
    monkeypatch.setattr(pstore, "_KERNEL", str(tmp_path / "none"))
    monkeypatch.setattr(pstore, "_ARCHIVE", str(archive))
    folder = archive / "1763882131" / "001"
    folder.mkdir(parents=True)
    pieces = [[PANIC], SAID[30:], SAID[20:30]]
    for number, piece in enumerate(pieces, 1):
        body = "".join(f"<4>{line}\n" for line in piece)
        name = f"dmesg-efi_pstore-1763882131{number:02}001"
        (folder / name).write_text(f"Panic#1 Part{number}\n{body}")
    (folder / "dmesg.txt").write_text("all of it, once more")
    (archive / "console-ramoops-0").write_text("[    1.000000] of some other boot\n")
    pstore.collect(agent, run, [OLD, NEW], Deadline(60))
    told = [(e["file"], e["boot"], e["test"]) for e in _told(run, "pstore")]
    assert told == [
        ("console-ramoops-0", "", ""),
        *((f"dmesg-efi_pstore-1763882131{n:02}001", OLD, "t::guilty") for n in (1, 2, 3)),
    ]
    assert [path for path in archive.rglob("*") if path.is_file()] == []
    assert (run.boot(NEW) / "pstore-before" / "console-ramoops-0").exists()
    stream, words = last_words(run.boot(OLD), 25_000_000)
    assert stream == "pstore/dmesg-efi_pstore-176388213101001"
    assert [record.usec // 1_000_000 for record in words] == [*range(26, 40), 41]


def test_dumps_of_one_second_are_told_apart() -> None:
    names = ["dmesg-efi-1763882131" + end for end in ("01001", "01002", "02001")]
    assert files.groups([*names, "dmesg-ramoops-0", "dmesg-ramoops-1"]) == [
        [names[0], names[2]],
        [names[1]],
        ["dmesg-ramoops-0"],
        ["dmesg-ramoops-1"],
    ]
