"""The model's process as the harness keeps it: how it starts, ends, and what is told of it."""

from __future__ import annotations

import gc
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.errors import LabError, UsageError
from harness.inventory import Target, VmSpec
from harness.link.gen3 import Gen3, refuse
from harness.link.kept import Kept
from tools.gen3.control import Client


class Rig:
    """A model without its QEMU: we are that."""

    def __init__(self, directory: Path) -> None:
        self.run_dir, self.evidence = directory / "live", directory / "evidence"
        self.run_dir.mkdir()
        self.evidence.mkdir()
        self.died = threading.Event()
        self.model = Gen3("g33", self.run_dir, self.evidence, self.died.set)
        self.pci, self.qtest = self.model.start("tcg")
        self.pci.settimeout(60)

    def config(self, offset: int) -> int:
        """A dword of configuration space; also the proof that the model has started."""
        self.pci.send(struct.pack("<i4xQIIi", 3, 12, offset, 0, 4))
        return int(struct.unpack("<i4xQQ", self.pci.recv(4096))[2])

    def leave(self) -> None:
        """As a QEMU that ends."""
        self.pci.close()
        self.qtest.close()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.leave()
    made.model.stop()


def _ended(pid: int) -> bool:
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([fd], [], [], 30)[0])
    finally:
        os.close(fd)


def test_it_serves_a_chip_and_ends_with_qemu_without_trouble(rig: Rig) -> None:
    assert rig.config(0) == 0x29C28086
    assert rig.model.alive()
    assert rig.model.control("state")["state"]["chip"] == "g33"
    pid = rig.model.pid
    rig.leave()
    rig.model.stop()
    assert _ended(pid)
    assert (rig.model.alive(), rig.model.pid, rig.model.trouble()) == (False, 0, "")
    assert not rig.died.is_set()
    assert not rig.model.control_socket.exists()
    rig.model.stop()


def test_a_kill_is_told_at_once_and_stays_known(rig: Rig) -> None:
    rig.config(0)
    os.kill(rig.model.pid, signal.SIGKILL)
    assert rig.died.wait(30)
    told = "the model of the g33 died (killed by signal 9); see gen3.log"
    assert rig.model.trouble() == told
    with pytest.raises(LabError, match="killed by signal 9"):
        rig.model.control("state")
    rig.model.stop()
    assert rig.model.trouble() == told


def test_an_exception_in_the_model_is_loud(rig: Rig) -> None:
    rig.config(0)
    rig.pci.send(struct.pack("<i4xQ", 99, 0))
    assert rig.died.wait(30)
    assert "exit status 1: " in rig.model.trouble()
    assert "ProtocolError: unknown command 99 with 0 bytes" in rig.model.trouble()
    log = (rig.evidence / "gen3.log").read_text()
    assert log.startswith("Traceback (most recent call last):")


def test_a_model_that_does_not_see_qemu_go_is_ended_and_that_is_no_trouble(rig: Rig) -> None:
    rig.config(0)
    pid = rig.model.pid
    os.kill(pid, signal.SIGSTOP)
    rig.leave()
    stopping = threading.Thread(target=rig.model.stop)
    stopping.start()
    stopping.join(60)
    assert not stopping.is_alive()
    assert _ended(pid)
    assert rig.model.trouble() == ""
    assert not rig.died.is_set()


def test_its_death_is_known_before_its_keeper_tells(rig: Rig) -> None:
    rig.config(0)
    pid = rig.model.pid
    keeper = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(keeper, signal.SIGSTOP)
    os.kill(pid, signal.SIGKILL)
    assert _ended(pid)
    go_on = threading.Timer(0.5, os.kill, (keeper, signal.SIGCONT))
    go_on.start()
    told = rig.model.trouble()
    go_on.join()
    assert told == "the model of the g33 died (killed by signal 9); see gen3.log"


def test_stalls_are_remarked_once(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.config(0)
    loop = dict.fromkeys(rig.model.control("state")["state"]["loop"], 0)
    loop |= {"stalls": 2, "longest_ms": 2300}
    assert len(loop) == 2, "the model calls them otherwise"
    monkeypatch.setattr(rig.model, "control", lambda op: {"state": {"loop": loop}})
    (said,) = rig.model.remarks()
    assert said.startswith("the modelled GPU stood still in this test, 2 time(s), 2.3 s at most")
    assert rig.model.remarks() == []
    loop["stalls"] = 3
    (said,) = rig.model.remarks()
    assert "in this test, 1 time(s)" in said


def test_who_does_not_answer_is_not_remarked_upon(rig: Rig) -> None:
    rig.config(0)
    os.kill(rig.model.pid, signal.SIGKILL)
    assert rig.died.wait(30)
    assert rig.model.remarks() == []


def test_a_death_is_told_though_its_log_is_gone(rig: Rig) -> None:
    rig.config(0)
    shutil.rmtree(rig.evidence)
    rig.pci.send(struct.pack("<i4xQ", 99, 0))
    assert rig.died.wait(30)
    assert rig.model.trouble() == "the model of the g33 died (exit status 1); see gen3.log"


def test_of_a_long_log_the_end_is_told(rig: Rig) -> None:
    rig.config(0)
    with (rig.evidence / "gen3.log").open("w") as log:
        log.writelines(f"line {number}\n" for number in range(10_000))
    rig.pci.send(struct.pack("<i4xQ", 99, 0))
    assert rig.died.wait(30)
    assert "ProtocolError: unknown command 99 with 0 bytes" in rig.model.trouble()


def test_in_a_deep_directory_it_is_controlled_all_the_same(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 150)
    deep.mkdir()
    rig = Rig(deep)
    rig.config(0)
    assert rig.model.control("state")["state"]["chip"] == "g33"
    client = Client(rig.model.control_socket)
    assert client.call("state")["state"]["chip"] == "g33"
    client.close()
    rig.leave()
    rig.model.stop()


def test_where_its_log_cannot_be_written_nothing_is_left_open(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    gc.collect()  # what earlier tests left is theirs
    recwarn.clear()
    model = Gen3("g33", tmp_path, tmp_path / "none", lambda: None)
    with pytest.raises(LabError, match="cannot start the model of the g33"):
        model.start("tcg")
    gc.collect()
    assert not [one for one in recwarn if one.category is ResourceWarning]


def test_a_signal_waits_for_a_forgetting_and_then_finds_nobody(tmp_path: Path) -> None:
    kept = Kept(["sleep", "600"], fds=[], stderr=tmp_path / "log")
    late = threading.Thread(target=kept.terminate)
    with kept._lock:  # as `forget` has it
        late.start()
        os.close(kept._pidfd)
        kept._pidfd = -1
    late.join(30)
    assert not late.is_alive()
    assert kept.alive()
    kept.end()
    kept.forget()


def test_before_it_starts_nothing_is_claimed(tmp_path: Path) -> None:
    model = Gen3("g33", tmp_path, tmp_path, lambda: None)
    assert (model.alive(), model.pid, model.trouble()) == (False, 0, "")
    model.stop()


def test_a_killed_harness_takes_the_model_along(tmp_path: Path) -> None:
    code = f"""
import time
from pathlib import Path
from harness.link.gen3 import Gen3
where = Path({str(tmp_path)!r})
model = Gen3("945g", where, where, lambda: None)
ends = model.start("kvm")
print(model.pid, flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as harness:
        assert harness.stdout is not None
        pid = int(harness.stdout.readline())
        harness.kill()
        assert _ended(pid)


def test_a_model_starts_without_any_of_the_callers_python(tmp_path: Path) -> None:
    """-I and an absolute name: whatever the working directory and the environment say."""
    (tmp_path / "socket.py").write_text("raise SystemExit('the wrong one')")
    main = Path(__file__).parents[3] / "tools/gen3/__main__.py"
    ours, theirs = socket.socketpair()
    with ours, theirs:
        argv = [sys.executable, "-I", str(main), "--chip", "945g"]
        argv += ["--pci", str(theirs.fileno()), "--control", str(tmp_path / "c")]
        child = subprocess.Popen(
            argv,
            cwd=tmp_path,
            env={"PYTHONPATH": str(tmp_path)},
            pass_fds=[theirs.fileno()],
            stderr=subprocess.PIPE,
        )
        theirs.close()
        ours.settimeout(60)
        ours.send(struct.pack("<i4xQIIi", 3, 12, 0, 0, 4))
        assert struct.unpack("<i4xQQ", ours.recv(4096))[2] == 0x27728086
    _, said = child.communicate(timeout=60)
    assert child.returncode == 0, said


def test_more_cpus_than_qemu_can_serve_are_refused_with_the_reason() -> None:
    def target(chip: str | None, cpus: int) -> Target:
        vm = VmSpec(chip=chip, gpu=None if chip else "ati-vga", cpus=cpus)  # type: ignore[arg-type]
        return Target(driver="i915", name="vm", vm=vm)

    with pytest.raises(UsageError, match="2 CPUs under KVM would lose accesses") as caught:
        refuse(target("g33", 2), "kvm")
    assert "cpus = 1" in caught.value.cure
    for chip, cpus, accel in (("g33", 1, "kvm"), ("g33", 4, "tcg"), (None, 4, "kvm")):
        refuse(target(chip, cpus), accel)


def test_a_program_that_is_not_there_has_ended(tmp_path: Path) -> None:
    kept = Kept([str(tmp_path / "none")], fds=[], stderr=tmp_path / "log")
    assert kept.wait(30)
    assert kept.pid == 0
    assert "none" in (tmp_path / "log").read_text()
    kept.terminate()
    kept.forget()
