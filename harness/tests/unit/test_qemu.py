"""What of the virtual target can be tried without an image: manifest, QMP, the keeper."""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness.deadline import Deadline
from harness.errors import LabError, UsageError
from harness.inventory import Target, VmSpec
from harness.link import keeper
from harness.link.qemu import Qemu, kvm_offered
from harness.link.qmp import Qmp
from harness.link.virtual import Manifest, cache_root, load_manifest, manifest_path

needs_qemu = pytest.mark.skipif(
    shutil.which("qemu-system-x86_64") is None, reason="qemu-system-x86 is not installed"
)


def _manifest(tmp_path: Path) -> Manifest:
    for name in ("bzImage", "vmlinux", "root.ext4", "modules.ext4", "client"):
        (tmp_path / name).write_bytes(b"\0" * 4096)
    return Manifest(
        kernel=str(tmp_path / "bzImage"),
        vmlinux=str(tmp_path / "vmlinux"),
        root=str(tmp_path / "root.ext4"),
        modules=str(tmp_path / "modules.ext4"),
        release="6.12.0-test",
        source="test",
        config_hash="",
        patches=(),
        module_hash="",
        key=str(tmp_path / "client"),
        host_key="ssh-ed25519 AAAA",
    )


def _target(gpu: str = "ati-vga", cmdline: str = "") -> Target:
    vm = VmSpec(gpu=gpu, memory_mib=256, cpus=1, cmdline=cmdline)
    return Target(driver="amdgpu", name="vm-under-test", vm=vm)


# -- the manifest ----------------------------------------------------------------


def test_manifest_round_trip(tmp_path: Path) -> None:
    made = _manifest(tmp_path)
    path = tmp_path / "virtual.json"
    path.write_bytes(msgspec.json.encode(made))
    assert load_manifest(path) == made


def test_no_manifest_has_set_up_as_its_cure(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="not set up") as caught:
        load_manifest(tmp_path / "virtual.json")
    assert caught.value.cure == "./tools/lab setup"


@pytest.mark.parametrize("text", ["", "{", '{"format": 1}', '{"format": 1, "kernel": 7}'])
def test_a_damaged_manifest_is_told(tmp_path: Path, text: str) -> None:
    path = tmp_path / "virtual.json"
    path.write_text(text)
    with pytest.raises(LabError, match="cannot be used"):
        load_manifest(path)


def test_a_manifest_of_another_format_or_with_lost_files_is_told(tmp_path: Path) -> None:
    made = _manifest(tmp_path)
    path = tmp_path / "virtual.json"
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(made, format=99)))
    with pytest.raises(LabError, match="format 99"):
        load_manifest(path)
    path.write_bytes(msgspec.json.encode(made))
    Path(made.root).unlink()
    with pytest.raises(LabError, match=r"root\.ext4"):
        load_manifest(path)


def test_the_cache_is_where_xdg_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert manifest_path() == tmp_path / "tdrlab" / "virtual.json"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_root() == Path.home() / ".cache" / "tdrlab"


# -- QMP -------------------------------------------------------------------------


@pytest.fixture
def bare() -> Iterator[tuple[socket.socket, subprocess.Popen[bytes]]]:
    """A QEMU with no machine at all, and its monitor."""
    ours, theirs = socket.socketpair()
    with theirs:
        child = subprocess.Popen(
            [
                *("qemu-system-x86_64", "-machine", "none", "-nodefaults", "-display", "none"),
                *(
                    "-chardev",
                    f"socket,id=m,fd={theirs.fileno()}",
                    "-mon",
                    "chardev=m,mode=control",
                ),
            ],
            pass_fds=[theirs.fileno()],
        )
    yield ours, child
    child.kill()
    child.wait()


@needs_qemu
def test_qmp_answers_refuses_and_reports_events(
    bare: tuple[socket.socket, subprocess.Popen[bytes]],
) -> None:
    sock, child = bare
    events: list[dict[str, Any]] = []
    qmp = Qmp(sock, Deadline(60), name="bare", on_event=events.append)
    assert qmp.execute("query-status", Deadline(60))["status"] == "running"
    assert "info" in qmp.human("help info", Deadline(60))
    with pytest.raises(LabError, match="no-such-command"):
        qmp.execute("no-such-command", Deadline(60))
    qmp.execute("quit", Deadline(60))
    assert child.wait(60) == 0
    with pytest.raises(LabError, match="gone"):
        qmp.execute("query-status", Deadline(60))
    assert [e["event"] for e in events] == ["SHUTDOWN"]
    qmp.close()
    qmp.close()
    with pytest.raises(LabError, match="not connected"):
        qmp.execute("query-status", Deadline(1))


@needs_qemu
def test_a_qemu_that_stands_still_is_told_not_waited_for(
    bare: tuple[socket.socket, subprocess.Popen[bytes]],
) -> None:
    sock, child = bare
    qmp = Qmp(sock, Deadline(60), name="bare")
    child.send_signal(signal.SIGSTOP)
    with pytest.raises(LabError, match="no answer within"):
        qmp.execute("query-status", Deadline(0.2))
    child.send_signal(signal.SIGCONT)
    qmp.close()


def test_nobody_at_the_monitor_is_told() -> None:
    ours, theirs = socket.socketpair()
    with pytest.raises(LabError, match="negotiate: no answer"):
        Qmp(ours, Deadline(0.2), name="silent")
    theirs.close()
    ours, theirs = socket.socketpair()
    theirs.close()
    with pytest.raises(LabError, match="negotiate"):
        Qmp(ours, Deadline(20), name="gone")


# -- the keeper ------------------------------------------------------------------


def _keep(*argv: str, **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-I", "-S", keeper.__file__, "--", *argv],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        **options,
    )


def _pid(kept: subprocess.Popen[bytes]) -> int:
    assert kept.stdout is not None
    return int(kept.stdout.readline())


def _gone(pid: int) -> None:
    """Wait for the end of a process that is not our child."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    assert select.select([fd], [], [], 30)[0], f"{pid} is still alive"
    os.close(fd)


@pytest.mark.parametrize(("code", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137)])
def test_the_keeper_ends_as_its_child_does(code: str, status: int) -> None:
    kept = _keep("sh", "-c", code)
    assert _pid(kept) > 0
    assert kept.wait(30) == status


def test_a_closed_pipe_ends_the_child() -> None:
    kept = _keep("sleep", "600")
    pid = _pid(kept)
    assert kept.stdin is not None
    kept.stdin.close()
    assert kept.wait(30) == 128 + signal.SIGTERM
    _gone(pid)


def test_a_child_that_ignores_sigterm_is_killed() -> None:
    code = "trap '' TERM; echo ready; while :; do sleep 1; done"
    kept = _keep("sh", "-c", code, stderr=subprocess.PIPE)
    _pid(kept)
    assert kept.stderr is not None
    assert kept.stderr.readline() == b"ready\n"
    assert kept.stdin is not None
    kept.stdin.close()
    assert kept.wait(30) == 128 + signal.SIGKILL


def test_a_killed_keeper_takes_its_child_along() -> None:
    kept = _keep("sleep", "600")
    pid = _pid(kept)
    kept.kill()
    kept.wait()
    _gone(pid)


def test_a_killed_harness_takes_the_child_along_even_if_its_pipe_leaked() -> None:
    code = f"""
import subprocess, sys, time
kept = subprocess.Popen([sys.executable, "-I", "-S", {keeper.__file__!r}, "--", "sleep", "600"],
                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
leak = subprocess.Popen(["sleep", "20"], stdin=subprocess.DEVNULL, pass_fds=[kept.stdin.fileno()])
print(kept.stdout.readline().decode().strip(), leak.pid, flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as harness:
        assert harness.stdout is not None
        child, leak = map(int, harness.stdout.readline().split())
        harness.kill()
        _gone(child)
    os.kill(leak, signal.SIGKILL)


# -- the machine -----------------------------------------------------------------


def test_a_target_without_a_vm_is_refused(tmp_path: Path) -> None:
    box = Target(driver="i915", name="box", address="box", host_key="SHA256:x")
    with pytest.raises(UsageError, match="no virtual target"):
        Qemu(box, _manifest(tmp_path), tmp_path, print)


def test_before_power_on_nothing_is_claimed(tmp_path: Path) -> None:
    machine = Qemu(_target(), _manifest(tmp_path), tmp_path / "run", print, kvm=False)
    assert not machine.alive()
    assert machine.pid == 0
    assert machine.exit_reason() == ""
    with pytest.raises(LabError, match="no SSH port"):
        machine.endpoint()
    with pytest.raises(LabError, match="it is off"):
        machine.qmp("query-status", Deadline(1))
    machine.stop()
    machine.stop()


@needs_qemu
def test_a_qemu_that_refuses_shows_its_own_words(tmp_path: Path) -> None:
    machine = Qemu(_target("no-such-gpu"), _manifest(tmp_path), tmp_path / "r,un", print, kvm=False)
    with pytest.raises(LabError, match=r"no-such-gpu.* is not a valid device"):
        machine.start(Deadline(60))
    assert not machine.alive()
    machine.stop()


@needs_qemu
def test_a_model_that_does_not_start_is_named_with_its_last_words(tmp_path: Path) -> None:
    vm = VmSpec(chip="g33", memory_mib=256, cpus=1)
    target = Target(driver="i915", name="vm-under-test", vm=vm)
    (tmp_path / "run" / "gen3.sock").mkdir(parents=True)  # where it wants to listen
    machine = Qemu(target, _manifest(tmp_path), tmp_path / "run", print, kvm=False)
    with pytest.raises(LabError, match=r"model of the g33 died \(exit status 1: IsADirectory"):
        machine.start(Deadline(60))
    assert not machine.alive()
    (tmp_path / "run" / "gen3.sock").rmdir()
    machine.stop()


@needs_qemu
def test_a_kernel_that_is_none_ends_in_a_lab_error_with_the_last_lines(tmp_path: Path) -> None:
    machine = Qemu(_target(), _manifest(tmp_path), tmp_path / "run", print, kvm=False)
    with pytest.raises(LabError, match="vm-under-test"):
        machine.start(Deadline(2))
    machine.stop()
    assert not (tmp_path / "run" / "disk.qcow2").exists()
    assert not (tmp_path / "run" / "console.sock").exists()


def test_kvm_needs_the_cpus_word_as_well(tmp_path: Path) -> None:
    cpuinfo, device = tmp_path / "cpuinfo", tmp_path / "kvm"
    device.touch()
    cpuinfo.write_text("flags : fpu sse vmxish\n")
    assert not kvm_offered(cpuinfo, device)
    cpuinfo.write_text("flags : fpu vmx sse\n")
    assert kvm_offered(cpuinfo, device)
    assert not kvm_offered(cpuinfo, tmp_path / "absent")
    assert not kvm_offered(tmp_path / "absent", device)
