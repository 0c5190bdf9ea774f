"""`lab bisect` of a target that a real coordinator has: its place is had for the whole search, by
all of its sessions, and let go.  The sessions are stubs that hold their target as real ones do."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.bisect.kernels import Kernel
from harness.bisect.runner import Ran, Runner
from harness.cli import main
from harness.deadline import Deadline
from harness.errors import LabError
from harness.evidence.files import write_json
from harness.evidence.rundir import RunDir
from harness.inventory import Target
from harness.lab.holds import hold
from harness.labgrid.hold import ACTS_FOR, PlaceHold, own_name
from harness.labgrid.places import Place
from harness.labgrid.session import Session
from harness.tests.bisecting import SECONDS, SPLAT, TEST
from harness.tests.loopback.labgrids import Coordinators, place_of
from harness.verdict import Verdict

COMMITS, CULPRIT = 8, 5
BUILD = (
    'sh -c \'git -C "$0" show "$1:number" > "$2/image"'
    ' && echo "{\\"image\\": \\"image\\"}" > "$2/built.json"\''
)


class Sessions(Runner):
    """Each tests nothing, and says what its kernel is worth."""

    seen: list[Place]
    watcher: Session

    def run(self, kernel: Kernel, runs: Path, tries: int = 1) -> Ran:
        with hold(self.target, "a session") as held:
            held.check()
            self.seen.append(self.watcher.places()["box"])
            run = RunDir.create(runs, "box")
            run.update(kernel={"builds": kernel.builds})
            bad = int(kernel.file(kernel.image).read_text()) >= CULPRIT
            verdict = Verdict(TEST, "pass", "", "armed", seconds=SECONDS)
            if bad:
                verdict = Verdict(TEST, "fail", SPLAT.title, "armed", (SPLAT,), seconds=SECONDS)
            write_json(run.test(TEST) / "verdict.json", verdict)
            run.journal.add("test-start", test=TEST)
            run.journal.add("run-end", how="done")
            run.journal.close()
        return Ran(run.path)


def tree(folder: Path) -> Path:
    """A repository whose commits are numbered."""

    def git(*words: str) -> None:
        who = ("-c", "user.name=A", "-c", "user.email=a@example.invalid")
        subprocess.run(["git", "-C", str(folder), *who, *words], check=True, capture_output=True)

    folder.mkdir()
    git("init")
    for number in range(COMMITS):
        (folder / "number").write_text(f"{number}\n")
        git("add", "number")
        git("commit", "-m", f"change {number}")
        git("tag", f"v{number}")
    return folder


@pytest.fixture(scope="module")
def coordinators(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinators]:
    made = Coordinators(tmp_path_factory.mktemp("coordinator"), {"box": place_of()}).start()
    yield made
    made.stop()


@pytest.fixture
def words(
    coordinators: Coordinators, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Sequence[str]:
    """A `lab bisect` of its box."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv(ACTS_FOR, raising=False)
    targets = tmp_path / "targets.toml"
    targets.write_text(
        f'{coordinators.lab()}[targets.box]\nplace = "box"\ndriver = "i915"\n'
        'address = "box.lab"\nhost_key = "SHA256:x"\n'
    )
    return [
        *("--inventory", str(targets), "bisect", "--target", "box"),
        *("--tree", str(tree(tmp_path / "tree")), "--good", "v0", "--bad", f"v{COMMITS - 1}"),
        *("--test", TEST, "--seen", "20/20", "--build", BUILD),
        *("--kernels", str(tmp_path / "store"), "--dir", str(tmp_path / "bisect")),
    ]


def test_a_bisect_has_its_place_until_it_ends(
    coordinators: Coordinators, words: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    person = Session(coordinators.address, own_name())
    person.reach(Deadline(60))
    before = PlaceHold.take(person, {"name": "box"}, coordinators.spec(), "lab console")
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if "waiting: box: " in line:
            before.release()

    monkeypatch.setattr("harness.lab.commands_bisect._say", say)
    Sessions.seen, Sessions.watcher = [], person

    class Jealous(Sessions):
        """Somebody at a desk wants it, too."""

        def run(self, kernel: Kernel, runs: Path, tries: int = 1) -> Ran:
            with pytest.raises(LabError, match=r"held by box: .*: lab bisect"):
                PlaceHold.take(person, {"name": "box"}, coordinators.spec(), "lab console")
            return super().run(kernel, runs, tries)

    monkeypatch.setattr("harness.lab.commands_bisect.Runner", Jealous)
    done = CliRunner().invoke(main, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert f"change {CULPRIT}" in done.output
    assert any("lab console" in line for line in said)
    owners = {place.acquired for place in Sessions.seen}
    assert len(Sessions.seen) >= 3
    assert len(owners) == 1
    assert owners.isdisjoint({"", person.owner})
    assert ACTS_FOR not in os.environ
    # Free at once, and not reserved.
    PlaceHold.take(person, {"name": "box"}, coordinators.spec(), "lab console").release()
    person.close()


def test_a_bisect_that_breaks_off_lets_its_place_go(
    coordinators: Coordinators, words: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:

    class Broken(Sessions):
        def __init__(self, inventory: Path, target: Target, *more: object, **most: object) -> None:
            self.target = target

        def run(self, kernel: Kernel, runs: Path, tries: int = 1) -> Ran:
            raise LabError("the disk is full", where="here", cure="free some")

    monkeypatch.setattr("harness.lab.commands_bisect.Runner", Broken)
    done = CliRunner().invoke(main, words)
    assert done.exit_code != 0
    person = Session(coordinators.address, own_name())
    PlaceHold.take(person, {"name": "box"}, coordinators.spec(), "lab console").release()
    person.close()
