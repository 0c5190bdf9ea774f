"""The trace on its way: what a kernel lacks, raw pages to streams, streams to files."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness.agent import probes, tracefs
from harness.agent import trace as agent_trace
from harness.agent.errors import AgentError
from harness.agent.workload.fence import NOBODY, identity
from harness.deadline import Deadline
from harness.errors import LabError, TargetError
from harness.evidence import jobs
from harness.evidence.boot import Boot
from harness.evidence.jobs import JobLine, JobLog
from harness.evidence.rundir import RunDir
from harness.evidence.trace import TraceFiles
from harness.gpu import observe
from harness.inventory import Policy, Target
from harness.live.recorder import Recorder

__all__: list[str] = []

PAGE = 64


# -- a sync file's name --------------------------------------------------------------


def told(name: str, *timelines: tuple[str, str]) -> dict[str, Any]:
    fences = [{"driver": driver, "timeline": timeline} for driver, timeline in timelines]
    return {"name": name, "fences": fences}


def test_a_timeline_that_ends_in_digits_is_parted_from_the_context() -> None:
    assert identity(told("drm_sched-gfx_0.0.017-5", ("drm_sched", "gfx_0.0.0"))) == (17, 5)
    assert identity(told("drm_sched-sdma017-5", ("drm_sched", "sdma0"))) == (17, 5)
    assert identity(told("sw_sync-a-b3--1", ("sw_sync", "a-b"))) == (3, -1)


@pytest.mark.parametrize(
    "info",
    [
        told("drm_sched-comp_1.0.0123456-12345", ("drm_sched", "comp_1.0.0")),  # cut
        told("drm_sched-gfx5-1", ("drm_sched", "signaled-timeline")),  # it changed in between
        told("dma_fence_array-unbound9-1", ("drm_sched", "gfx"), ("drm_sched", "sdma")),
        told("dma_fence_array-unbound9-1"),
        told("my own name", ("drm_sched", "gfx")),
    ],
)
def test_what_is_not_certain_is_not_told(info: dict[str, Any]) -> None:
    assert identity(info) == NOBODY


# -- a tracefs of files --------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Enough of tracefs for an instance: making its folder fills it, as the kernel does."""
    template = tmp_path / "template"
    for event in ("dma_fence/dma_fence_init", "dma_fence/dma_fence_signaled"):
        (template / "events" / event).mkdir(parents=True)
    for event in ("sys_enter", "sys_exit"):
        (template / "events/raw_syscalls" / event).mkdir(parents=True)
        (template / "events/raw_syscalls" / event / "filter").touch()
    for folder in template.glob("events/*/*"):
        (folder / "enable").touch()
        (folder / "format").write_text(f"name: {folder.name}\n")
    (template / "events/header_page").write_text(
        "\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;\n"
        "\tfield: local_t commit;\toffset:8;\tsize:8;\tsigned:1;\n"
        "\tfield: char data;\toffset:16;\tsize:48;\tsigned:1;\n"
    )
    (template / "events/header_event").write_text("# compressed entry header\n")
    (template / "options").mkdir()
    for name in ("tracing_on", "trace_clock", "buffer_size_kb", "buffer_percent"):
        (template / name).touch()
    for name in ("record-cmd", "overwrite"):
        (template / "options" / name).touch()
    for cpu in os.sched_getaffinity(0):
        (template / f"per_cpu/cpu{cpu}").mkdir(parents=True)
    made = tmp_path / "tracing"
    (made / "instances").mkdir(parents=True)
    (made / "kprobe_events").touch()

    def make(path: str) -> None:
        subprocess.run(["cp", "-r", template, path], check=True)

    def remove(path: str) -> None:
        if not os.path.isdir(path):
            raise FileNotFoundError(2, "No such file or directory", path)
        subprocess.run(["rm", "-r", path], check=True)

    monkeypatch.setattr("harness.agent.tracefs.os.mkdir", make)
    monkeypatch.setattr("harness.agent.tracefs.os.rmdir", remove)
    return made


def test_an_instance_tells_what_is_on_and_what_is_not_there(root: Path) -> None:
    instance = tracefs.Instance(str(root), 512, [*tracefs.DEFAULT_EVENTS, "i915:i915_request_*"])
    mine = root / f"instances/lab-{os.getpid()}"
    assert (mine / "tracing_on").read_text() == "1\n"
    assert (mine / "trace_clock").read_text() == "mono\n"
    assert (mine / "buffer_size_kb").read_text() == "512\n"
    assert instance.events["dma_fence:dma_fence_init"] == "on"
    assert instance.events["raw_syscalls:sys_exit"].startswith("on, filter: id == ")
    for name in ("gpu_scheduler:*", "signal:signal_deliver", "i915:i915_request_*"):
        assert instance.events[name].startswith("absent")
    filtered = (mine / "events/raw_syscalls/sys_enter/filter").read_text()
    assert re.fullmatch(r'id == \d+ && COMM ~ "lab-\*"\n', filtered)
    # Nothing answers to the probes here: each says so, and nothing failed for that.
    assert set(instance.probes) == {f"lab:{probe.name}" for probe in probes.PROBES}
    assert all(state.startswith("absent") for state in instance.probes.values())
    assert instance.page_size() == PAGE
    formats = instance.formats()
    assert formats["dma_fence/dma_fence_init"] == "name: dma_fence_init\n"
    assert {"header_page", "header_event"} <= set(formats)


def test_what_cannot_be_set_leaves_nothing_behind(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tracefs._write

    def refuse(path: str, text: str, append: bool = False) -> None:
        if path.endswith("buffer_size_kb"):
            raise OSError(12, "Cannot allocate memory", path)
        kept(path, text, append)

    monkeypatch.setattr(tracefs, "_write", refuse)
    with pytest.raises(AgentError, match="Cannot allocate memory") as caught:
        tracefs.Instance(str(root), 512, [])
    assert "trace_buffer_kb" in caught.value.cure
    assert list((root / "instances").iterdir()) == []


def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(root: Path) -> None:
    dead, alive = 4_194_305, os.getpid()  # beyond pid_max
    for pid in (dead, alive):
        os.mkdir(f"{root}/instances/lab-{pid}")
    os.mkdir(f"{root}/instances/somebody-elses")
    (root / "kprobe_events").write_text(
        f"p:lab_{dead}/wait_begin f\nr512:lab_{dead}/wait_end f\np:lab_{alive}/wait_begin f\n"
        "p:kprobes/theirs f\n"
    )
    tracefs.sweep(str(root))
    left = sorted(path.name for path in (root / "instances").iterdir())
    assert left == sorted([f"lab-{alive}", "somebody-elses"])
    written = (root / "kprobe_events").read_text().splitlines()
    assert written[4:] == [f"-:lab_{dead}/wait_begin", f"-:lab_{dead}/wait_end"]


# -- pages to streams ----------------------------------------------------------------


class Sink:
    """An outbox: keeps all, or takes nothing until told."""

    def __init__(self) -> None:
        self.streams: dict[int, bytes] = {}
        self.ended: set[int] = set()
        self.events: list[dict[str, Any]] = []
        self.open = threading.Event()
        self.open.set()

    def put(self, stream: int, payload: bytes) -> bool:
        if not payload:
            self.ended.add(stream)
            return True
        self.open.wait(20)
        self.streams[stream] = self.streams.get(stream, b"") + payload
        return True

    def control(self, message: dict[str, Any]) -> None:
        self.events.append(message)


class Kernel:
    """Two CPUs' trace_pipe_raw as named pipes, and the reader of them."""

    def __init__(self, path: Path, sink: Sink) -> None:
        for cpu in (0, 1):
            (path / f"per_cpu/cpu{cpu}").mkdir(parents=True)
            os.mkfifo(path / f"per_cpu/cpu{cpu}/trace_pipe_raw")
        self.reader = agent_trace._Reader(str(path), [0, 1], PAGE, 4, sink)
        flags = os.O_WRONLY | os.O_NONBLOCK
        self.pipes = [os.open(path / f"per_cpu/cpu{cpu}/trace_pipe_raw", flags) for cpu in (0, 1)]
        self.reader.attach(0, 10)
        self.reader.attach(1, 11)
        self.reader.start()

    def record(self, cpu: int, data: bytes) -> None:
        os.write(self.pipes[cpu], data)


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture
def kernel(tmp_path: Path, sink: Sink) -> Iterator[Kernel]:
    made = Kernel(tmp_path / "tracing", sink)
    yield made
    sink.open.set()
    made.reader.stop(20)
    for fd in made.pipes:
        os.close(fd)


def test_a_sync_has_all_sent_and_says_how_much(kernel: Kernel, sink: Sink) -> None:
    kernel.record(0, b"a" * (3 * PAGE))
    kernel.record(1, b"b" * 10)
    assert kernel.reader.sync(20) == {0: 3 * PAGE, 1: PAGE}
    assert sink.streams == {10: b"a" * (3 * PAGE), 11: b"b" * 10 + bytes(PAGE - 10)}
    kernel.record(1, b"c" * PAGE)
    assert kernel.reader.sync(20)[1] == 2 * PAGE


def test_without_a_sync_it_comes_by_itself(kernel: Kernel, sink: Sink) -> None:
    kernel.record(1, b"x" * PAGE)
    done = threading.Event()
    for _ in range(400):
        if 11 in sink.streams or done.wait(0.05):
            break
    assert sink.streams.get(11) == b"x" * PAGE


def test_a_controller_that_does_not_read_is_told_of_and_blocks_no_end(
    kernel: Kernel, sink: Sink
) -> None:
    sink.open.clear()
    kernel.record(0, b"a" * PAGE)
    with pytest.raises(AgentError, match="could not be sent"):
        kernel.reader.sync(0.3)
    kernel.reader.stop(0.1)
    assert sink.ended == {10, 11}


def test_the_last_words_come_before_the_end(kernel: Kernel, sink: Sink) -> None:
    kernel.record(0, b"z" * PAGE)
    assert kernel.reader.stop(20) == {0: PAGE, 1: 0}
    assert sink.streams[10] == b"z" * PAGE
    assert sink.ended == {10, 11}


def test_a_cpu_is_collected_once_and_only_if_it_is_there(kernel: Kernel) -> None:
    for cpu in (0, 7):
        with pytest.raises(AgentError, match=f"cpu {cpu} cannot be collected"):
            kernel.reader.attach(cpu, 12)


# -- streams to files ----------------------------------------------------------------

STARTED: dict[str, Any] = {
    "cpus": [0, 1],
    "meta": {"page_size": PAGE, "events": {"dma_fence:dma_fence_init": "on"}, "probes": {}},
    "formats": {"header_page": "h", "dma_fence/dma_fence_init": "f"},
    "stats": [{"mono": 1, "cpu": 0, "entries": 0}],
}


def test_files_lie_as_their_readers_expect(tmp_path: Path) -> None:
    files = TraceFiles(tmp_path, STARTED, 1 << 20)
    files.sink(1)(b"p" * PAGE)
    files.comms(5, {"12": "python3"})
    assert files.wait({"0": 0, "1": PAGE}, Deadline(20))
    assert not files.wait({"0": 1}, Deadline(0.01))
    files.close()
    assert (tmp_path / "trace/cpu1.raw").read_bytes() == b"p" * PAGE
    assert (tmp_path / "trace/formats/dma_fence/dma_fence_init").read_text() == "f"
    assert msgspec.json.decode((tmp_path / "trace/meta.json").read_bytes()) == STARTED["meta"]
    line = msgspec.json.decode((tmp_path / "trace/comms.jsonl").read_bytes())
    assert line == {"mono": 5, "pid": 12, "comm": "python3"}
    # A second agent has probes of other numbers.
    assert TraceFiles(tmp_path, STARTED, 1 << 20).path.name == "trace-2"


def test_a_full_file_is_missing_evidence_and_nobody_waits_for_it(tmp_path: Path) -> None:
    files = TraceFiles(tmp_path, STARTED, 2 * PAGE)
    for _ in range(3):
        files.sink(0)(b"p" * PAGE)
    assert files.wait({"0": 3 * PAGE}, Deadline(20))
    assert "cpu0.raw: the stream passed its limit" in files.trouble()
    assert (tmp_path / "trace/cpu0.raw").stat().st_size == 2 * PAGE


class Agent:
    """An agent that answers as it is told."""

    alive = True

    def __init__(self) -> None:
        self.answers: dict[str, Callable[[], dict[str, Any]]] = {"trace.start": lambda: STARTED}
        self.asked: dict[str, Any] = {}

    def call(self, op: str, _deadline: Deadline, **arguments: Any) -> dict[str, Any]:
        self.asked = arguments or self.asked
        return self.answers[op]()

    def collect(self, _what: str, _sink: Any, _deadline: Deadline, **_arguments: Any) -> None:
        pass


@pytest.fixture
def boot(tmp_path: Path) -> Iterator[Boot]:
    run = RunDir.create(tmp_path, "box")
    boot = Boot(run, 1 << 20)
    yield boot
    boot.close()
    run.close()


def recorder(agent: Agent, boot: Boot, policy: Policy) -> Recorder:
    target = Target(driver="amdgpu", name="box", address="box.lab", policy=policy)
    return Recorder(target, agent, boot, Deadline(20))  # type: ignore[arg-type]


def synced(sent: int = 0, **missed: int) -> Callable[[], dict[str, Any]]:
    return lambda: {
        "mono": 1,
        "sent": {"0": sent},
        "stats": [],
        "comms": {},
        "missed": missed,
        "gone": [],
    }


def failing(error: Exception) -> Callable[[], dict[str, Any]]:
    def fail() -> dict[str, Any]:
        raise error

    return fail


def test_policy_decides_and_sizes(boot: Boot) -> None:
    off = recorder(Agent(), boot, Policy(trace=False))
    assert off.sync() == off.absent == "the trace is off (policy.trace = false)"
    agent = Agent()
    on = recorder(agent, boot, Policy(trace_buffer_kb=777))
    assert (on.absent, on.folder) == ("", "trace")
    assert agent.asked["buffer_kb"] == 777
    assert agent.asked["events"] == list(observe.trace_events("amdgpu"))


def test_a_target_that_cannot_trace_says_why_and_goes_on(boot: Boot) -> None:
    agent = Agent()
    agent.answers["trace.start"] = failing(TargetError("tracefs is not mounted", cure="mount it"))
    without = recorder(agent, boot, Policy())
    assert "tracefs is not mounted" in without.sync()
    assert without.cure == "mount it"
    agent.alive = False
    with pytest.raises(TargetError):
        recorder(agent, boot, Policy())


@pytest.mark.parametrize("name", ["/etc/evil", "../../evil", "a/b/c", "a/..", ""])
def test_a_target_names_no_file_of_ours(tmp_path: Path, name: str) -> None:
    with pytest.raises(LabError, match="names a format file"):
        TraceFiles(tmp_path, {**STARTED, "formats": {name: "x"}}, 1 << 20)
    assert list(tmp_path.rglob("*evil*")) == []


def test_a_process_may_call_itself_anything(tmp_path: Path) -> None:
    files = TraceFiles(tmp_path, STARTED, 1 << 20)
    files.comms(5, {"7": "caf\udcc3"})
    files.close()
    assert json.loads((tmp_path / "trace/comms.jsonl").read_text())["comm"] == "caf?"


def test_what_is_late_or_missed_is_said_once(boot: Boot) -> None:
    agent = Agent()
    made = recorder(agent, boot, Policy())
    agent.answers["trace.sync"] = synced(**{"lab:wait_end": 3})
    assert made.sync() == "probes missed hits: 3 of lab:wait_end"
    assert made.sync() == ""
    agent.answers["trace.sync"] = failing(TargetError("could not be sent"))
    assert made.sync() == "the trace is behind: could not be sent"
    agent.answers["trace.sync"] = lambda: {**synced()(), "gone": ["gpu_scheduler"]}
    assert "without gpu_scheduler since" in made.sync()
    assert "without gpu_scheduler since" in made.sync(), "it does not come back"
    agent.answers["trace.sync"] = synced(**{"lab:wait_end": 4})
    assert made.sync(synced()()) == "", "not asked again"
    assert made.sync({"behind": "not sent"}) == "the trace is behind: not sent"
    agent.alive = False
    agent.answers["trace.sync"] = failing(LabError("the link is gone"))
    with pytest.raises(LabError):
        made.sync()


# -- jobs ----------------------------------------------------------------------------


def test_of_a_job_the_last_line_counts(tmp_path: Path) -> None:
    reply = {"job": 1, "submitted_ns": 100, "context": 7, "seqno": 1, "recipe": "wait_reg_mem"}
    first = JobLine.submitted(42, "gfx", "hang", reply)
    end = {
        "signaled": True,
        "error": -62,
        "timestamp_ns": 900,
        "wait_error": -62,
        "waited_ns": 10,
        "woken_ns": 850,
        "released_ns": None,
    }
    other = JobLine.submitted(42, "gfx", "canary", {**reply, "job": 2, "submitted_ns": 50})
    log = JobLog(tmp_path / "jobs.jsonl", 1 << 20)
    for line in (first, other, first.ended(end)):
        log.add(line)
    log.close()
    with (tmp_path / "jobs.jsonl").open("ab") as file:
        file.write(b'{"client": 42, "jo')
    found = jobs.read(tmp_path / "jobs.jsonl")
    assert [line.job for line in found] == [2, 1]
    assert (found[1].error, found[1].timestamp_ns, found[1].woken_ns) == (-62, 900, 950)
    assert (found[0].signaled, found[0].error) == (False, None)
    assert jobs.read(tmp_path / "none.jsonl") == []


def test_a_pending_fence_has_no_error_yet() -> None:
    reply = {"job": 1, "submitted_ns": 100, "context": None, "seqno": None}
    line = JobLine.submitted(42, "gfx", "hang", reply)
    told = {"signaled": False, "error": 0, "timestamp_ns": None, "wait_error": 0, "waited_ns": 1}
    still = line.ended({**told, "woken_ns": 9, "released_ns": None})
    assert (still.signaled, still.error) == (False, None)
