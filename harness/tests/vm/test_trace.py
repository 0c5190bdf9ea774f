"""The trace of a real kernel: what fences did is on our disk, and what was lost is said."""

from __future__ import annotations

import contextlib
import errno
import json
from collections.abc import Iterator

from harness.deadline import Deadline
from harness.errors import HarnessError
from harness.evidence import jobs
from harness.evidence.boot import Boot
from harness.evidence.rundir import Window
from harness.evidence.trace import TraceFiles
from harness.fence.trace import Recording, Trace
from harness.link import zipapp
from harness.link.agent import Agent
from harness.live.dut import Dut
from harness.tests.vm.guest import PATIENCE_S, engine_of, sh

TRACING = "/sys/kernel/tracing"
SIGNALED = "dma_fence:dma_fence_signaled"
SYSCALLS = ("raw_syscalls:sys_enter", "raw_syscalls:sys_exit")


def recorded(dut: Dut, window: Window, *names: str) -> Recording:
    """Those events of a closed window, of which nothing is missing."""
    assert window.trace == ""
    path = dut.run.path / f"boot-{window.boot_id}" / window.trace_dir
    found = Trace.open(path).read(names, window.trace_first, window.trace_last)
    assert found.losses == ()
    return found


def signalled(found: Recording) -> dict[tuple[int, int], int]:
    """When each (context, seqno) signalled, in ns."""
    table = found.table(SIGNALED)
    contexts, seqnos = table.columns["context"].tolist(), table.columns["seqno"].tolist()
    return dict(zip(zip(contexts, seqnos, strict=True), table.time.tolist(), strict=True))


def left_there(dut: Dut) -> set[str]:
    """Instances and probe groups that agents have on the target."""
    instances = sh(dut, f"ls {TRACING}/instances").split()
    probes = sh(dut, f"sed -n 's/^[^:]*:\\([^/]*\\).*/\\1/p' {TRACING}/kprobe_events")
    return {*instances, *probes.split()}


@contextlib.contextmanager
def another(dut: Dut) -> Iterator[tuple[Agent, int]]:
    """A second agent on the same target, and its pid."""
    app, digest = zipapp.build()
    path = f"/var/tmp/lab-agent-{digest[:16]}.pyz"
    deadline = Deadline(PATIENCE_S)
    dut.at.ssh.put(app, path, 0o755, deadline)
    channel = dut.at.ssh.channel(["python3", path, "serve"], root=True, deadline=deadline)
    with Agent(channel, deadline) as agent:
        yield agent, int(agent.call("hello", deadline)["pid"])


def test_a_hang_is_told_from_its_wait_to_its_recovery(connected: Dut) -> None:
    gfx = engine_of(connected, "gfx")
    window = connected.begin("a hang", destructive=True)
    client = connected.client()
    assert client.canary(gfx).ok
    assert client.wait(client.hang(gfx), Deadline(PATIENCE_S)).error == -errno.ETIME
    connected.end(window)

    canary, hang = jobs.read(connected.run.test("a hang") / "jobs.jsonl")
    assert (canary.kind, canary.error) == ("canary", 0)
    assert (hang.kind, hang.error) == ("hang", -errno.ETIME)
    assert canary.context is not None
    assert canary.seqno is not None
    assert (hang.context, hang.seqno) == (canary.context, canary.seqno + 1)

    names = ("lab:wait_begin", "lab:wait_end", "lab:tdr_begin", "lab:tdr_end")
    found = recorded(connected, window, SIGNALED, *names, *SYSCALLS)
    ended = signalled(found)
    assert ended[canary.context, canary.seqno] < hang.submitted_ns
    begins, ends, recovery, recovered = (found.table(name) for name in names)
    mine = begins.columns["intr"][begins.pid == client.pid]
    assert mine.tolist()
    assert set(mine.tolist()) == {1}, "amdgpu's wait ioctl is interruptible"
    assert (ends.columns["ret"][ends.pid == client.pid] > 0).any()
    assert len(recovery) == len(recovered) == 1
    # Its finished fence may signal a little after the handler has handed it on.
    assert recovery.time[0] < ended[canary.context, canary.seqno + 1]
    assert recovery.time[0] < recovered.time[0]
    # Of system calls only our clients' ioctls, entered and left in turn.
    calls = [found.table(name) for name in SYSCALLS]
    entered, left = ([*table.pid.tolist()] for table in calls)
    assert client.pid in entered
    assert client.pid in left
    assert calls[0].columns["id"].tolist() == [16] * len(entered)


def test_a_storm_is_told_job_by_job(connected: Dut) -> None:
    window = connected.begin("a storm", destructive=True)
    sdma = engine_of(connected, "sdma")
    storm = connected.client().storm(sdma, 500, Deadline(PATIENCE_S), seconds=60)
    connected.end(window)
    assert (storm.submitted, storm.completed, storm.pending) == (500, 500, 0)
    assert storm.errors == {}
    [(context, first, count)] = storm.fences
    assert first is not None
    ended = signalled(recorded(connected, window, SIGNALED))
    assert sorted(s for c, s in ended if c == context) == [*range(first, first + count)]


def test_a_storm_goes_on_in_a_new_context_after_a_reset(connected: Dut) -> None:
    gfx = engine_of(connected, "gfx")
    client = connected.client()
    window = connected.begin("a reset", destructive=True)
    connected.pin(gfx)
    client.storm(gfx, 10, Deadline(PATIENCE_S))
    guilty = connected.client()
    guilty.hang(gfx)
    storm = client.storm(gfx, 100, Deadline(PATIENCE_S), seconds=60)
    connected.end(window)
    assert (storm.submitted, storm.completed, storm.pending) == (100, 100, 0)
    assert sum(count for _, _, count in storm.fences) == 100


def test_an_overflow_is_told(connected: Dut) -> None:
    """Nobody reads until the storm is over: most of it is overwritten."""
    deadline = Deadline(PATIENCE_S)
    boot = Boot(connected.run, 1 << 30)
    with another(connected) as (agent, _):
        started = agent.call("trace.start", deadline, buffer_kb=64)
        connected.client().storm(engine_of(connected, "gfx"), 1000, deadline, seconds=60)
        files = TraceFiles(boot.path, started, 1 << 30)
        for cpu in started["cpus"]:
            agent.collect("trace", files.sink(cpu), deadline, cpu=cpu)
        told = agent.call("trace.sync", deadline)
        assert files.wait(told["sent"], deadline)
    boot.close()
    assert sum(one["overrun"] for one in told["stats"]) > 0
    assert Trace.open(files.path).read([SIGNALED]).losses != ()


def test_each_agent_takes_its_own_away_and_what_the_dead_left(connected: Dut) -> None:
    before = left_there(connected)
    deadline = Deadline(PATIENCE_S)
    with another(connected) as (killed, first):
        killed.call("trace.start", deadline, buffer_kb=64)
        assert left_there(connected) - before == {f"lab-{first}", f"lab_{first}"}
        sh(connected, f"kill -9 {first}; while [ -e /proc/{first} ]; do sleep 0.1; done")
    assert left_there(connected) - before == {f"lab-{first}", f"lab_{first}"}
    with another(connected) as (agent, pid):
        agent.call("trace.start", deadline, buffer_kb=64)
        assert left_there(connected) - before == {f"lab-{pid}", f"lab_{pid}"}
    assert left_there(connected) == before
    with another(connected) as (agent, pid):
        agent.call("trace.start", deadline, buffer_kb=64)
        sh(connected, f"kill -TERM {pid}; while [ -e /proc/{pid} ]; do sleep 0.1; done")
        assert left_there(connected) == before
    assert connected.at.recorder.sync() == ""


def test_a_snapshot_shows_who_waits_for_a_hang(connected: Dut) -> None:
    gfx = engine_of(connected, "gfx")
    window = connected.begin("a snapshot", destructive=True)
    client = connected.client()
    client.hang(gfx)
    path = connected.snapshot(window)
    connected.end(window)
    seen = json.loads(path.read_bytes())
    ours = [task for task in seen["tasks"] if task["pid"] == client.pid]
    assert {task["tid"] for task in ours} >= {client.pid}
    assert all(task["stack"] and not task["error"] for task in ours)
    devices = [one for one in seen["fdinfo"] if f"/{client.pid}/" in one["path"]]
    assert "mnt_id:" in devices[0]["text"]  # simgpu adds nothing of its own to it
    files = {one["path"].rpartition("/")[2]: one for one in seen["files"]}
    assert "lab-amdgpu" in files["clients"]["text"]
    assert "Dma-buf Objects" in seen["bufinfo"]["text"]
    # What this kernel lacks is said where it would be.
    assert files["amdgpu_gem_info"]["text"] or "No such file" in files["amdgpu_gem_info"]["error"]


def test_a_module_that_goes_takes_its_events_along_and_that_is_said(connected: Dut) -> None:
    window = connected.begin("a reload", destructive=True)
    unload = "for n in $(seq 100); do rmmod $1 && exit; sleep 0.1; done; exit 1"
    sh(connected, f"set -- amdgpu; ({unload}); set -- gpu_sched; ({unload})")
    sh(connected, "modprobe amdgpu && udevadm settle")
    connected.end(window)
    assert "without gpu_scheduler since" in window.trace
    assert connected.client().canary(engine_of(connected, "gfx")).ok


def test_what_came_before_a_death_is_kept(connected: Dut) -> None:
    """Nothing asks for the trace between the job and the panic a second later."""
    window = connected.begin("a death", destructive=True)
    assert connected.client().canary(engine_of(connected, "gfx")).ok
    sh(connected, "(sleep 1; echo c > /proc/sysrq-trigger) > /dev/null 2>&1 < /dev/null &")
    deadline = Deadline(PATIENCE_S)
    while connected.agent.alive and deadline.pause(0.1):
        with contextlib.suppress(HarnessError):
            connected.agent.call("echo", Deadline(1), data="")
    connected.end(window)
    assert window.died
    [job] = jobs.read(connected.run.test("a death") / "jobs.jsonl")
    assert job.context is not None
    assert job.seqno is not None
    path = connected.run.path / f"boot-{window.boot_id}" / window.trace_dir
    found = Trace.open(path).read([SIGNALED], window.trace_first)
    assert (job.context, job.seqno) in signalled(found)
