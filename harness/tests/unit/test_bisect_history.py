"""git's range as a DAG, and kernels by a command: on a small repository and a small builder."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.bisect.history import History
from harness.bisect.kernels import Kernel, Kernels, Unbuildable, Workshop, trouble_in
from harness.deadline import Deadline
from harness.errors import LabError, UsageError

__all__: list[str] = []

# Fails where the file says so, else writes what it is built of.
BUILDER = """
import json, pathlib, subprocess, sys, time
tree, commit, out = sys.argv[1:]
show = ["git", "-C", tree, "show", f"{commit}:driver/file"]
text = subprocess.run(show, capture_output=True, text=True).stdout
with open(pathlib.Path(sys.argv[0]).with_name("calls"), "a") as calls:
    calls.write(commit + "\\n")
if "broken" in text:
    sys.exit("error: it does not compile")
if "slow" in text:
    here = pathlib.Path(sys.argv[0])
    here.with_name("waits").touch()
    while not here.with_name("go").exists():
        time.sleep(0.02)
if "starved" in text:
    sys.exit(text)
if "full" in text:
    print("no space left"); sys.exit(3)
pathlib.Path(out, "built.json").write_text(json.dumps({"builds": {"driver": text.strip()}}))
"""


class Repository:
    """Commits by name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self.git("init", "-q", "-b", "main")

    def git(self, *words: str) -> str:
        fixed = ["-c", "user.name=N", "-c", "user.email=n@example.invalid"]
        fixed += ["-c", "commit.gpgsign=false"]
        done = subprocess.run(
            ["git", "-C", str(self.path), *fixed, *words],
            check=True, capture_output=True, text=True,
            env={**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null"},
        )  # fmt: skip
        return done.stdout.strip()

    def commit(self, title: str, name: str = "driver/file", text: str = "") -> str:
        path = self.path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text or title)
        self.git("add", "-A")
        self.git("commit", "-q", "-m", title)
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "tree")


@pytest.fixture
def builder(tmp_path: Path) -> list[str]:
    (tmp_path / "build.py").write_text(BUILDER)
    return [sys.executable, str(tmp_path / "build.py")]


def merged(repository: Repository) -> tuple[str, str]:
    """good - a - merge - c, with a topic t1 - t2 beside a; the good and the bad end."""
    good = repository.commit("good")
    repository.git("checkout", "-q", "-b", "topic")
    repository.commit("t1", "other/file")
    repository.commit("t2", "other/file")
    repository.git("checkout", "-q", "main")
    repository.commit("a")
    repository.git("merge", "-q", "--no-ff", "-m", "merge", "topic")
    return good, repository.commit("c")


def test_a_range_is_gits_own_with_its_parents(repository: Repository) -> None:
    good, bad = merged(repository)
    history = History.read(repository.path, [good], bad)
    titles = [commit.title for commit in history.commits]
    assert set(titles) == {"a", "t1", "t2", "merge", "c"}
    parents = {c.title: {titles[one] for one in c.parents} for c in history.commits}
    assert parents == {
        "a": set(), "t1": set(), "t2": {"t1"}, "merge": {"a", "t2"}, "c": {"merge"},
    }  # fmt: skip
    assert history.commits[0].author == "N <n@example.invalid>"
    assert len(history.dag()) == 5


def test_first_parent_and_paths_limit_it(repository: Repository) -> None:
    good, bad = merged(repository)
    line = History.read(repository.path, [good], bad, first_parent=True)
    assert [commit.title for commit in line.commits] == ["a", "merge", "c"]
    assert line.dag().linear
    topic = History.read(repository.path, [good], bad, paths=["other"])
    assert [commit.title for commit in topic.commits if len(commit.parents) < 2][:2] == ["t1", "t2"]
    with pytest.raises(UsageError, match="no commit between"):
        History.read(repository.path, [good], bad, paths=["nowhere"])


def test_ends_that_do_not_fit_are_refused(repository: Repository) -> None:
    good, bad = merged(repository)
    repository.git("checkout", "-q", "-b", "aside", good)
    aside = repository.commit("aside")
    with pytest.raises(UsageError, match="no ancestor"):
        History.read(repository.path, [aside], bad)
    with pytest.raises(UsageError, match="no-such-thing"):
        History.read(repository.path, [good], "no-such-thing")
    with pytest.raises(UsageError, match="not a git repository"):
        History.read(repository.path.parent, [good], bad)


def calls(builder: list[str]) -> list[str]:
    path = Path(builder[1]).with_name("calls")
    return path.read_text().split() if path.exists() else []


def test_a_kernel_is_built_once_for_each_content(
    repository: Repository, builder: list[str], tmp_path: Path
) -> None:
    first = repository.commit("one")
    same = repository.commit("elsewhere", "other/file")
    later = repository.commit("two")
    kernels = Kernels(repository.path, tmp_path / "kernels", builder, "driver")
    kernels.learn([first, same, later])
    assert not kernels.known(first)
    assert kernels.get(first).builds == {"driver": "one"}
    assert kernels.known(same), "its driver is the same"
    assert kernels.get(same) == kernels.get(first)
    assert kernels.get(later).builds == {"driver": "two"}
    assert calls(builder) == [first, later]
    kernels.prune(set(), 0)
    assert kernels.known(first), "asked for just now, perhaps by another bisect"
    for path in kernels.root.glob("*/"):
        os.utime(path, (0, 0))
    kernels.get(first)
    kernels.prune(set(), 0)
    assert (kernels.known(first), kernels.known(later)) == (True, False)
    os.utime(kernels.root / kernels.key(first), (0, 0))
    kernels.prune({first}, 0)
    assert (kernels.known(first), kernels.known(later)) == (True, False)


def test_what_does_not_build_is_remembered_and_the_labs_trouble_is_not(
    repository: Repository, builder: list[str], tmp_path: Path
) -> None:
    broken = repository.commit("broken")
    full = repository.commit("full")
    kernels = Kernels(repository.path, tmp_path / "kernels", builder, "driver")
    for _ in range(2):
        with pytest.raises(Unbuildable, match="does not compile"):
            kernels.get(broken)
        with pytest.raises(LabError, match="no space left"):
            kernels.get(full)
    assert calls(builder) == [broken, full, full]


@pytest.mark.parametrize(
    "said",
    [
        "/usr/bin/ld: final link failed: No space left on device",
        "cc1: fatal error: error writing to /tmp/a.s: No space left on device",
        "make[3]: vfork: Cannot allocate memory",
        "gcc: fatal error: Killed signal terminated program cc1",
        "collect2: fatal error: ld terminated with signal 9 [Killed]",
        "make[2]: *** [scripts/Makefile.build:229: a.o] Error 137",
        "cc1: out of memory allocating 65536 bytes after a total of 1 bytes",
    ],
)
def test_what_a_starved_build_says_is_known(said: str) -> None:
    assert trouble_in(f"  CC a.o\n{said}\nmake: *** [a] Error 2\n") == said


def test_a_starved_build_is_the_labs_trouble_whatever_its_status(
    repository: Repository, builder: list[str], tmp_path: Path
) -> None:
    said = "ld: a.o: No space left on device"
    starved = repository.commit("starved", text=f"starved\n{said}\nmake: *** [a] Error 2\n")
    kernels = Kernels(repository.path, tmp_path / "kernels", builder, "driver")
    for _ in range(2):
        with pytest.raises(LabError, match=said):
            kernels.get(starved)
    assert calls(builder) == [starved, starved]


def test_source_that_speaks_of_a_full_disk_is_not_one() -> None:
    quoted = """a.c:7:2: error: implicit declaration of function 'b'
    7 |  pr_err("x: No space left on device\\n"); b("Cannot allocate memory"); /* Killed */
"""
    assert trouble_in(quoted) == ""


def test_two_bisects_build_a_kernel_once(
    repository: Repository, builder: list[str], tmp_path: Path
) -> None:
    commit = repository.commit("slow")
    both = [Kernels(repository.path, tmp_path / "kernels", builder, "driver") for _ in range(2)]
    made: list[Kernel] = []
    threads = [
        threading.Thread(target=lambda k=k: made.append(k.get(commit)), daemon=True) for k in both
    ]
    threads[0].start()
    until((tmp_path / "waits").exists)
    threads[1].start()
    lock = both[0].root / f"{both[0].key(commit)}.lock"
    until(lambda: calls(builder) != [commit] or waiting_for(lock))
    (tmp_path / "go").touch()
    for thread in threads:
        thread.join()
    assert calls(builder) == [commit]
    assert [one.builds for one in made] == [{"driver": "slow"}] * 2


def until(condition: Callable[[], bool]) -> None:
    deadline = Deadline(120)
    while not condition():
        assert deadline.pause(0.02)


def waiting_for(lock: Path) -> bool:
    """Whether somebody waits for it (proc_locks(5): -> marks who does)."""
    inode = lock.stat().st_ino if lock.exists() else -1
    lines = Path("/proc/locks").read_text().splitlines()
    return any("->" in line and f":{inode} " in line for line in lines)


def test_the_workshop_builds_ahead(
    repository: Repository, builder: list[str], tmp_path: Path
) -> None:
    commits = [repository.commit(name) for name in ("one", "two", "broken", "three")]
    kernels = Kernels(repository.path, tmp_path / "kernels", builder, "driver")
    workshop = Workshop(kernels)
    try:
        workshop.expect(commits[1:3])
        assert workshop.get(commits[3]).builds == {"driver": "three"}
        with pytest.raises(Unbuildable):
            workshop.get(commits[2])
        assert workshop.get(commits[1]).builds == {"driver": "two"}
    finally:
        workshop.close()
    assert sorted(calls(builder)) == sorted(commits[1:])
