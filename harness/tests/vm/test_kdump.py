"""A crash kernel for real: the virtual target's own kernel, loaded beside itself, writes down what
it died of, and that reaches the test that killed it."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.errors import HarnessError
from harness.evidence import journal
from harness.kernel.merge import Line
from harness.lab import bootlog
from harness.link.virtual import load_manifest
from harness.live.dut import Dut
from harness.tests.vm.guest import put, run, sh
from harness.verdict import record

CMDLINE = "crashkernel=256M"
EXTRA = "kdump = { seconds = 240 }"
PLACE, STAMP = "/opt/kexec", "202611230715"
# As Debian's kdump-tools does it, with makedumpfile left out: a piece of the memory will do.
WRITER = f"""\
#!/bin/sh
export LD_LIBRARY_PATH={PLACE}
/bin/busybox mount -t proc proc /proc
mkdir -p /var/crash/{STAMP}
cd /var/crash/{STAMP}
{PLACE}/vmcore-dmesg /proc/vmcore > dmesg.{STAMP}
head -c 65536 /proc/vmcore > dump.{STAMP}
sync
echo b > /proc/sysrq-trigger
"""


def _install(dut: Dut) -> None:
    """kexec-tools there, with the libraries that the target has not got."""
    files = {}
    for tool in ("kexec", "vmcore-dmesg"):
        path = shutil.which(tool, path="/usr/sbin:/sbin:/usr/bin")
        if path is None:
            pytest.skip("no kexec here: apt-get install kexec-tools")
        files[tool] = path
        said = subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout
        files |= {Path(lib).name: lib for lib in re.findall(r"=> (/\S+)", said)}
    sh(dut, f"mkdir -p {PLACE}")
    for name, path in files.items():
        if not name.startswith("libc.so"):
            dut.at.ssh.put(Path(path).read_bytes(), f"{PLACE}/{name}", 0o755, Deadline(120))
    image = Path(load_manifest().kernel).read_bytes()
    dut.at.ssh.put(image, f"{PLACE}/bzImage", 0o644, Deadline(120))
    put(dut, f"{PLACE}/writer", WRITER)
    # The crash kernel finds what is on the disk, not what this one has in memory.
    sh(dut, f"chmod 755 {PLACE}/writer; sync")


@pytest.mark.deep
def test_what_a_crash_kernel_writes_reaches_the_test_that_died(connected: Dut) -> None:
    dut = connected
    _install(dut)
    words = f"console=ttyS0,115200 root=/dev/vda rw nr_cpus=1 reset_devices init={PLACE}/writer"
    status, said = run(
        dut, "env", f"LD_LIBRARY_PATH={PLACE}", f"{PLACE}/kexec", "-p", f"{PLACE}/bzImage",
        f"--append={words}",
    )  # fmt: skip
    if status != 0 or sh(dut, "cat /sys/kernel/kexec_crash_loaded").strip() != "1":
        pytest.skip(f"this kernel cannot be its own crash kernel: {said.strip()[-200:]}")
    # On a box it stands by from the boot on.
    dut._drop()
    dut.ready()
    assert dut.guards.armed["kdump"] == "a crash kernel, /var/crash"
    died = dut.boot_id
    dut.run.journal.add("test-start", test="t::innocent", boot=died)
    dut.run.journal.add("test-start", test="t::guilty", boot=died)
    window = dut.begin("t::guilty", destructive=True)
    with contextlib.suppress(HarnessError):
        dut.agent.call("write", Deadline(20), path="/proc/sysrq-trigger", data="Yw==", seconds=10)
    window.body = "error"
    dut.end(window)
    assert window.died == "the kernel panicked: sysrq triggered crash"
    dut.recover()
    told = list(journal.read(dut.run.journal.path))
    assert [e["name"] for e in told if e["what"] == "recovered"][-1] == "its crash kernel"
    (dump,) = [e for e in told if e["what"] == "kdump"]
    assert (dump["path"], dump["boot"], dump["test"], dump["memory"]) == (
        f"/var/crash/{STAMP}",
        died,
        "t::guilty",
        f"/var/crash/{STAMP}/dump.{STAMP}",
    )
    assert dut.boot_id != died
    (panic,) = [
        line
        for line in bootlog.of_boot(dut.run, died).lines
        if isinstance(line, Line)
        and line.text == "Kernel panic - not syncing: sysrq triggered crash"
    ]
    # The console, the RAM that outlived the kernel, the crash kernel: one line, one record.
    assert bootlog.letters(panic.sources) == "cpd"
    # Without the others it is what the verdict goes by.
    (dut.run.boot(died) / "console.log").unlink()
    shutil.rmtree(dut.run.boot(died) / "pstore")
    judged = record(dut.run, window)
    assert "panic" in {finding.kind for finding in judged.findings}
    assert judged.outcome == "incomplete"
