"""The night: one pytest process for each target, so many at a time, each on its own.

Starts, watches and ends processes; what they did stands in their run directories.  Neither a
target that is unfit nor one that takes too long stops another.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from harness.deadline import Deadline
from harness.lab import asked, sessions
from harness.lab.claims import ALL_OURS, Answer, Claims
from harness.lab.ingest import runs_in
from harness.lab.nights import NightDir, run_of
from harness.lab.progress import Progress
from harness.lab.sessions import PYTEST, Process

__all__ = ["Board", "Job", "Settings", "run"]

# How long a session that was told to end may take to stop hangs and machines, and write its
# report, before it is killed, in seconds.
GRACE_S = 120.0
# Seconds between looks at the processes.
LOOK_S = 0.2
# pytest's own statuses for a session that came to its end: tests passed; some did not.
WENT = (0, 1)
NOTHING = 5
# Plugins of pytest that a night has no use for: a third of what a session takes of memory is
# those that a developer has beside the harness.
WITHOUT = ("cacheprovider", "hypothesispytest", "xdist", "xdist.looponfail")


@dataclass(frozen=True)
class Settings:
    """How a night runs: at most `beside` targets at once, `budget_s` for each."""

    runs: Path
    inventory: Path
    known: Path | None = None
    beside: int = 1
    budget_s: float | None = None
    grace_s: float = GRACE_S
    # How long to wait for a target that others have.
    wait_s: float = 8 * 3600.0
    # What tests one target, for the benchmark of everything but that.
    program: tuple[str, ...] = (*PYTEST, *(f"-pno:{name}" for name in WITHOUT))


@dataclass
class Job:
    """One target's process.  `why` is what kept it from doing all that was asked, ""."""

    target: str
    state: str = "waiting"
    process: Process | None = None
    run: Path | None = None
    progress: Progress | None = None
    began: float = 0.0
    seconds: float = 0.0
    why: str = ""
    # Until when to wait for others, and what was last said of them.
    busy: Deadline | None = None
    # Its session came to its end, whatever it found.
    went: bool = False
    # When it was told to end, it must have done so.
    kill_at: Deadline | None = None
    seen: list[str] = field(default_factory=list)


class Board(Protocol):
    """Whom the night tells how it goes."""

    def show(self, jobs: Sequence[Job]) -> None:
        """How things stand."""

    def say(self, line: str) -> None:
        """Something happened."""


def run(night: NightDir, settings: Settings, board: Board, claims: Claims = ALL_OURS) -> str:
    """Test every target that is left; "done", or "interrupted" after SIGTERM or Ctrl-C.

    `claims` tells which of them are ours, where other dispatchers want them, too.  Either way
    everything that was started has ended, and each target's end is in the journal.
    """
    leaving = Deadline(settings.grace_s)
    while night.held() and leaving.pause(LOOK_S):
        pass  # a night that was killed: its sessions end by themselves, and let their targets go
    waiting = [Job(target) for target in night.left()]
    jobs = list(waiting)
    with closing(claims), _asked() as stop:
        while True:
            running = [job for job in jobs if job.state == "running"]
            if stop:
                waiting.clear()
                for job in running:
                    _end(job, "the night was interrupted", settings)
            for job in list(waiting):
                if len(running) >= settings.beside:
                    break
                answer = claims.ask(job.target)
                if answer.state == "busy" and _patient(job, answer, settings, board):
                    continue
                waiting.remove(job)
                if answer.state != "ours":
                    _passed(job, answer, night, board)
                    continue
                _start(job, night, settings, answer.env)
                board.say(f"{job.target}: started, pid {job.process.pid if job.process else 0}")
                running.append(job)
            for job in running:
                _look(job, night, settings, board)
                if job.state != "running":
                    claims.end(job.target, done=job.went)
            board.show(jobs)
            if not waiting and not any(job.state == "running" for job in jobs):
                break
            time.sleep(LOOK_S)
    for job in jobs:
        if job.state == "waiting":
            night.ended(job.target, "the night was interrupted", done=False)
    return "interrupted" if stop else "done"


def argv(target: str, night: NightDir, settings: Settings, resumed: Path | None) -> list[str]:
    """What tests one target."""
    places = [] if asked.names_places(night.plan.args) else ["testcases"]
    return [
        *settings.program,
        *(f"--target={target}", f"--inventory={settings.inventory.absolute()}"),
        *(f"--runs={settings.runs.absolute()}", f"--night={night.name}"),
        *([f"--known={settings.known.absolute()}"] if settings.known else []),
        *([f"--resume={resumed}"] if resumed else []),
        *places,
        *asked.settled(night.plan.args),
    ]


def _patient(job: Job, answer: Answer, settings: Settings, board: Board) -> bool:
    """Whether to ask again for a target that others have."""
    job.busy = job.busy or Deadline(settings.wait_s)
    if answer.who and answer.who != job.why:
        job.why = answer.who
        board.say(f"{job.target}: waiting: {answer.who}")
    return not job.busy.expired()


def _passed(job: Job, answer: Answer, night: NightDir, board: Board) -> None:
    """Another dispatcher tested it, or nobody can."""
    job.state = "ended"
    if answer.state == "done":
        job.why = f"tested by {answer.who}"
        night.ended(job.target, "", done=True, elsewhere=answer.who)
    else:
        job.why = answer.who or job.why
        night.ended(job.target, job.why, done=False)
    board.say(f"{job.target}: {job.why}")


def _start(job: Job, night: NightDir, settings: Settings, env: Mapping[str, str]) -> None:
    resumed = run_of(settings.runs, night.name, job.target)
    words = argv(job.target, night, settings, resumed)
    job.process = sessions.start(words, night.log(job.target), env)
    job.why = ""
    job.state, job.began = "running", time.monotonic()
    # Directories that are there already are no use to look into again and again.
    job.seen = [path.name for path in runs_in(settings.runs)] if resumed is None else []
    _found(job, resumed)
    night.started(job.target, job.process.pid, resumed)


def _look(job: Job, night: NightDir, settings: Settings, board: Board) -> None:
    assert job.process is not None
    status = job.process.poll()
    job.seconds = time.monotonic() - job.began
    if job.run is None:
        _found(job, run_of(settings.runs, night.name, job.target, job.seen))
    for test, outcome in job.progress.advance() if job.progress else []:
        if outcome not in ("pass", "skip", "xfail"):
            board.say(f"{job.target}: {outcome}: {test}")
    if status is None:
        if settings.budget_s is not None and job.seconds > settings.budget_s:
            _end(job, f"stopped after its budget of {settings.budget_s:g} s", settings)
        if job.kill_at is not None and job.kill_at.expired():
            _kill(job.process)
        return
    _kill(job.process)  # what it may have left in its process group
    interrupted = job.why == "the night was interrupted"
    job.went = status in WENT and not interrupted
    if not job.why and status not in WENT:
        job.why = _said(status, night.log(job.target))
    if not job.why and job.progress is not None:
        job.why = job.progress.trouble
    if not job.why and status and job.run is None:
        job.why = _unbegun(job.target, night.log(job.target))
    job.state = "interrupted" if interrupted else "ended"
    night.ended(job.target, job.why, done=not interrupted)
    told = job.progress.told() if job.progress else "no test"
    why = f"; {job.why}" if job.why else ""
    board.say(f"{job.target}: ended after {job.seconds:.0f} s: {told or 'no test'}{why}")


def _found(job: Job, path: Path | None) -> None:
    if path is not None:
        job.run, job.progress = path, Progress(path / "journal.jsonl")


def _end(job: Job, why: str, settings: Settings) -> None:
    """Ask it to end, as Ctrl-C does: it stops hangs and machines and writes its report."""
    if job.kill_at is None and job.process is not None:
        job.why, job.kill_at = why, Deadline(settings.grace_s)
        job.process.terminate()


def _kill(process: Process) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _said(status: int, log: Path) -> str:
    """Why pytest came to no end, from its status and the last that it printed."""
    if status == NOTHING:
        return "no test was chosen"
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    last = next((line for line in reversed(lines) if line.strip("= ")), "")[:200]
    if status < 0:
        return f"pytest was killed by {signal.Signals(-status).name}; its last line: {last}"
    return f"pytest ended with {status}: {last}"


def _unbegun(target: str, log: Path) -> str:
    """Why there is no run of a target, none of whose tests passed: somebody else has it, say."""
    lines = log.read_text(errors="replace").splitlines()
    told = f"{target}: lab error: "
    return next(
        (line.removeprefix(told) for line in reversed(lines) if line.startswith(told)),
        "no run was begun",
    )


@contextmanager
def _asked() -> Iterator[list[int]]:
    """Not empty once SIGTERM or SIGINT came."""
    came: list[int] = []

    def note(number: int, frame: Any) -> None:
        came.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
