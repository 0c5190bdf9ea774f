"""A lab that two dispatchers share by a real coordinator, and what must hold while each part of
it dies: with whatever targets, on whatever verdicts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from harness.deadline import Deadline
from harness.evidence.rundir import RunDir
from harness.labgrid.hold import own_name
from harness.labgrid.session import Session
from harness.tests.inner import ROOT
from harness.tests.loopback.labgrids import Coordinators, Exporter, place_of
from harness.verdict import recorded

__all__ = ["NAMES", "VICTIMS", "Lab", "nobody_loses", "opened", "shared"]

VICTIMS = "harness/tests/loopback/victims/shared.py"
TESTS = ("test_a_first", "test_b_waits", "test_c_last")
NAMES = ("one", "two", "three")


class Lab:
    """A coordinator, an exporter of three places, and their target list."""

    def __init__(
        self,
        folder: Path,
        service: Mapping[str, object],
        entry: Callable[[str], str],
        tags: Mapping[str, str],
        patience_s: float,
    ) -> None:
        """`service` is each place's NetworkService, `entry` what its target's table holds besides
        the place."""
        self.folder = folder
        self.patience_s = patience_s
        places = {name: place_of(tags, f"rack/{name}/NetworkService/*") for name in NAMES}
        self.coordinators = Coordinators(folder / "coordinator", places).start()
        self.exporter = Exporter(
            folder / "exporter",
            self.coordinators.address,
            "rack",
            {name: {"NetworkService": dict(service)} for name in NAMES},
        ).start()
        self.targets = folder / "targets.toml"
        self.targets.write_text(
            self.coordinators.lab(stale_s=20.0, patience_s=patience_s)
            + "".join(f'[targets.{n}]\nplace = "{n}"\n{entry(n)}\n' for n in NAMES)
        )
        self.session = Session(self.coordinators.address, own_name())
        self.session.reach(Deadline(patience_s))

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for what must come."""
        deadline = Deadline(self.patience_s)
        while not condition():
            assert deadline.pause(0.05), f"did not happen: {what}"

    def close(self) -> None:
        self.session.close()
        self.exporter.stop()
        self.coordinators.stop()


@contextmanager
def opened(
    folder: Path,
    service: Mapping[str, object],
    entry: Callable[[str], str],
    tags: Mapping[str, str],
    patience_s: float,
) -> Iterator[Lab]:
    """As Lab."""
    lab = Lab(folder, service, entry, tags, patience_s)
    try:
        yield lab
    finally:
        lab.close()


class Dispatcher:
    """`lab nightly` as a process of a host of its own: its runs, its locks."""

    def __init__(self, lab: Lab, name: str, manifest: bytes = b"") -> None:
        """`manifest`: of virtual machines, where its targets are some."""
        self.patience_s = lab.patience_s
        self.folder = lab.folder / name
        self.runs = self.folder / "runs"
        self.runs.mkdir(parents=True)
        self.flag = self.folder / "flag"
        if manifest:
            (self.folder / "cache" / "tdrlab").mkdir(parents=True)
            (self.folder / "cache" / "tdrlab" / "virtual.json").write_bytes(manifest)
        env = {
            **os.environ,
            "XDG_STATE_HOME": str(self.folder / "state"),
            "XDG_CACHE_HOME": str(self.folder / "cache"),
            "VICTIM_FLAG": str(self.flag),
        }
        argv = [sys.executable, "-m", "harness.cli", f"--inventory={lab.targets}", "nightly"]
        argv += ["--jobs=1", "--share=tonight", f"--runs={self.runs}", "--", VICTIMS]
        self.output = self.folder / "output"
        with self.output.open("wb") as out:
            self.process = subprocess.Popen(argv, cwd=ROOT, env=env, stdout=out, stderr=out)

    def waits(self) -> str:
        """Until a test waits on one of its targets; which."""
        deadline = Deadline(self.patience_s)
        while not (self.flag.exists() and self.flag.read_text()):
            assert self.process.poll() is None, self.output.read_text()
            assert deadline.pause(0.05), self.output.read_text()
        return self.flag.read_text()

    def go_on(self) -> None:
        self.flag.unlink()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def results(self) -> dict[str, dict[str, str]]:
        """Outcomes by target and test; what was cut short has none."""
        found: dict[str, dict[str, str]] = {}
        for path in sorted(self.runs.glob("2*")):
            run = RunDir.open(path)
            told = {name.rpartition("::")[2]: v.outcome for name, v in recorded(run).items()}
            found.setdefault(run.facts()["target"]["name"], {}).update(told)
        return found


def shared(lab: Lab, outcome: str, status: int, manifest: bytes = b"") -> None:
    """Each target is tested whole, by one of the two."""
    both = [Dispatcher(lab, name, manifest) for name in "ab"]
    for _ in NAMES:
        _next_goes_on(both, lab.patience_s)
    for one in both:
        assert one.process.wait(lab.patience_s) == status, one.output.read_text()
    done = [one.results() for one in both]
    assert Counter(target for results in done for target in results) == Counter(NAMES)
    whole = dict.fromkeys(TESTS, outcome)
    assert {t: r for results in done for t, r in results.items()} == dict.fromkeys(NAMES, whole)
    assert not any(place.acquired for place in lab.session.places().values())


def nobody_loses(lab: Lab, outcome: str, status: int, manifest: bytes = b"") -> None:
    """The coordinator dies, then an exporter and a dispatcher: every test has its result."""
    whole = dict.fromkeys(TESTS, outcome)
    first, second = (Dispatcher(lab, name, manifest) for name in "ab")
    mine, others = first.waits(), second.waits()
    assert mine != others
    # It forgets who has what, and the exporter ends with it.
    lab.coordinators.kill()
    assert lab.exporter.wait() == 100
    lab.coordinators.start()
    lab.exporter.start()
    lab.until(lambda: lab.session.generation == 2, "it is there again")
    for name in (mine, others):
        lab.until(lambda: lab.session.places()[name].resources, "it is whole again")  # noqa: B023
    first.go_on()
    last = first.waits()
    assert {mine, others, last} == set(NAMES)
    # With a test of each under way.
    lab.exporter.kill()
    first.kill()
    second.go_on()
    lab.until(lambda: set(second.results().get(others, {})) == set(TESTS), "the other goes on")
    lab.exporter.start()
    assert second.waits() == last
    second.go_on()
    assert second.process.wait(lab.patience_s) == status, second.output.read_text()
    assert first.results()[mine] == whole
    assert second.results() == {others: whole, last: whole}
    assert f"{mine}: tested by" in second.output.read_text()
    assert not any(place.acquired for place in lab.session.places().values())


def _next_goes_on(dispatchers: list[Dispatcher], patience_s: float) -> None:
    """Let the next test that waits go on."""
    deadline = Deadline(patience_s)
    while True:
        for one in dispatchers:
            if one.flag.exists() and one.flag.read_text():
                one.go_on()
                return
        assert deadline.pause(0.05), "\n".join(d.output.read_text() for d in dispatchers)
