"""Where a finding began: last good and first bad kernels of a history, and their commits."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from harness.bisect.kernels import Kernels
from harness.cli import main
from harness.errors import UsageError
from harness.evidence.finding import signature
from harness.lab import onset
from harness.lab.history import History, default_url
from harness.tests.nights import Test, run_of

__all__: list[str] = []

HANG = "testcases/test_hang.py::test_recovers[gfx]"
SPLAT = signature("warning", "WARNING in x")
BAD, GOOD = Test(HANG, "fail", "WARNING in x"), Test(HANG)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    path = tmp_path / "runs"
    path.mkdir()
    return path


@pytest.fixture
def history(runs: Path) -> Iterator[History]:
    with History.open(default_url(runs)) as opened:
        yield opened


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Three commits; the first has a tag."""
    path = tmp_path / "linux"
    path.mkdir()
    git(path, "init", "-q")
    for number in range(3):
        git(path, "commit", "-q", "--allow-empty", "-m", f"change {number}")
    git(path, "tag", "v6.12", "HEAD~2")
    return path


def git(tree: Path, *words: str) -> str:
    who = ["-c", "user.name=Lab", "-c", "user.email=lab@example.invalid"]
    argv = ["git", "-C", str(tree), *who, *words]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


def past(runs: Path, history: History, kernels: Sequence[tuple[str, Sequence[Test]]]) -> None:
    """A night each day with a kernel and what a test said on it, once for each."""
    for day, (kernel, said) in enumerate(kernels):
        for hour, test in enumerate(said):
            run_of(runs, "navi", [test], day=day, hour=hour, kernel=kernel)
    history.add([runs])


def test_the_last_kernel_without_it_and_the_first_with_it(runs: Path, history: History) -> None:
    past(runs, history, [("a", [GOOD]), ("b", [GOOD]), ("c", [BAD]), ("d", [BAD])])
    found = onset.find(history, SPLAT)
    assert found.good is not None
    assert (found.good.release, found.bad.release) == ("b", "c")
    assert (found.test, found.target, found.bad.shown, found.bad.runs) == (HANG, "navi", 1, 1)


def test_a_kernel_that_passed_once_is_not_good_where_bad_ones_often_pass(
    runs: Path, history: History
) -> None:
    flaky = [BAD, GOOD, GOOD, GOOD, GOOD]
    nights = [("a", [GOOD] * 20), ("b", flaky), ("c", [GOOD]), ("d", flaky)]
    past(runs, history, nights)
    found = onset.find(history, SPLAT)
    assert found.good is not None
    assert (found.good.release, found.bad.release) == ("a", "b"), "c may as well be bad"
    assert found.doubt < onset.UNLIKELY
    assert "20 runs" in found.told()[-1]


def test_what_was_mended_for_long_began_again(runs: Path, history: History) -> None:
    nights = [("a", [GOOD]), ("b", [BAD] * 9), ("c", [GOOD] * 9), ("d", [BAD] * 3)]
    past(runs, history, nights)
    found = onset.find(history, SPLAT)
    assert found.good is not None
    assert (found.good.release, found.bad.release) == ("c", "d")


def test_another_failure_is_no_pass(runs: Path, history: History) -> None:
    past(runs, history, [("a", [GOOD]), ("b", [Test(HANG, "fail", "other")]), ("c", [BAD])])
    found = onset.find(history, SPLAT)
    assert found.good is not None
    assert found.good.release == "a"


def test_without_a_good_one_it_says_so(runs: Path, history: History) -> None:
    past(runs, history, [("a", [BAD]), ("b", [BAD])])
    found = onset.find(history, SPLAT)
    assert (found.good, found.told()[-1]) == (None, "last good  none is known")
    with pytest.raises(UsageError, match="never seen on elsewhere"):
        onset.find(history, SPLAT, target="elsewhere")


def test_a_signature_is_named_by_its_beginning() -> None:
    assert onset.pick(["abc1", "abd2"], "abc") == "abc1"
    with pytest.raises(UsageError, match="several findings begin"):
        onset.pick(["abc1", "abd2"], "ab")
    with pytest.raises(UsageError, match="no finding that begins"):
        onset.pick(["abc1"], "f")


def test_a_release_names_its_commit_or_its_tag(runs: Path, history: History, tree: Path) -> None:
    head = git(tree, "rev-parse", "HEAD")
    past(runs, history, [("6.12.0", [GOOD]), (f"6.12.0-00002-g{head[:12]}", [BAD])])
    found = onset.find(history, SPLAT)
    assert found.good is not None
    assert onset.commit_of(tree, found.bad, runs) == head
    assert onset.commit_of(tree, found.good, runs) == git(tree, "rev-parse", "v6.12")


@pytest.mark.parametrize("release", ["6.12.117-lab", "6.12.5", "6.12.0-gabcdef012345"])
def test_a_kernel_whose_commit_is_not_known_says_so(
    release: str, runs: Path, history: History, tree: Path
) -> None:
    past(runs, history, [(release, [BAD])])
    with pytest.raises(UsageError, match=f"the commit of kernel {release} .* is not known"):
        onset.commit_of(tree, onset.find(history, SPLAT).bad, runs)


def test_a_dirty_trees_kernel_is_not_its_commits(runs: Path, history: History, tree: Path) -> None:
    head = git(tree, "rev-parse", "HEAD")
    past(runs, history, [(f"6.12.0-g{head[:12]}-dirty", [BAD])])
    with pytest.raises(UsageError, match="had changes of its own"):
        onset.commit_of(tree, onset.find(history, SPLAT).bad, runs)


def test_what_a_bisect_built_is_known_by_its_build_id(
    runs: Path, history: History, tree: Path, tmp_path: Path
) -> None:
    commit, build = git(tree, "rev-parse", "HEAD~1"), "ab" * 20
    made = msgspec.json.encode({"builds": {"amdgpu": build}}).decode()
    builder = f"echo '{made}' > \"$3/built.json\""
    kernels = Kernels(tree, tmp_path / "store", ["sh", "-c", builder, "sh"])
    kernels.get(commit)
    path = run_of(runs, "navi", [BAD], kernel="6.12.117-lab")
    facts = msgspec.json.decode((path / "run.json").read_bytes())
    facts["kernel"]["builds"] = {"amdgpu": build, "vmlinux": "cd" * 20}
    (path / "run.json").write_bytes(msgspec.json.encode(facts))
    history.add([runs])
    bad = onset.find(history, SPLAT).bad
    assert onset.commit_of(tree, bad, tmp_path / "store") == commit


def test_a_bisect_begins_from_a_finding(runs: Path, history: History, tree: Path) -> None:
    head = git(tree, "rev-parse", "HEAD")
    nights = [("6.12.0", [GOOD] * 9), (f"6.12.0-00002-g{head[:12]}", [BAD, GOOD, BAD])]
    past(runs, history, nights)
    targets = runs.parent / "targets.toml"
    targets.write_text(
        '[targets.navi]\ndriver = "amdgpu"\naddress = "box1.lab"\nhost_key = "SHA256:x"\n'
    )
    argv = ["--inventory", str(targets), "bisect", "--from-finding", SPLAT[:6], "--dry-run"]
    argv += ["--tree", str(tree), "--history", history.url, "--build", "true"]
    done = CliRunner().invoke(main, argv)
    assert done.exit_code == 0, done.output
    assert f"in {HANG} on navi" in done.output
    assert "2 of 3 runs" in done.output
    assert "2 commits, 0 of them merges" in done.output
    assert "shows it in 67%" in done.output, "what the history saw is told to the search"
