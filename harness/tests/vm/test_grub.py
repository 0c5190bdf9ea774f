"""A kernel that GRUB takes once, for real: one comes up, one does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.errors import TargetError
from harness.evidence import journal
from harness.evidence.rundir import RunDir
from harness.lab.reservation import Reservation
from harness.link.boot import Kernel
from harness.link.boots import boot_for
from harness.link.machine import machine_for
from harness.link.virtual import load_manifest
from harness.live import trial
from harness.live.rescue import Rescue
from harness.tests.vm import grub


@pytest.mark.deep
def test_a_kernel_is_taken_once_and_the_known_good_one_comes_back(tmp_path: Path) -> None:
    made = load_manifest()
    with grub.running(made, tmp_path) as target, Reservation.take(target.name, "test_grub"):
        link = Rescue(target, RunDir.create(tmp_path / "runs", "box"), machine_for(target), print)
        try:
            link.connect()
            _try(link, made.kernel, grub.vmlinux_build_id(Path(made.vmlinux)), tmp_path)
        finally:
            link.close()


def _try(link: Rescue, image: str, build: str, directory: Path) -> None:
    good = link.boot_id
    ours = Kernel(Path(image), "6.12.117-lab", build, cmdline="lab.tried=1")
    trial.boot(link, boot_for(link.target, link.at.ssh), ours)
    tried = link.boot_id
    assert tried != good
    assert link.facts["cmdline"].endswith(" lab.tried=1")
    # GRUB has forgotten it: whoever reboots now gets what was there before.
    assert "next_entry=t" not in link.call("run", argv=["cat", "/boot/grub/grubenv"])["stdout"]
    link.reboot()
    assert "tdrlab=" not in link.facts["cmdline"]

    broken = Kernel(Path(image), "6.12.117-lab", build, cmdline="root=/dev/nowhere panic=0")
    with pytest.raises(TargetError) as caught:
        trial.boot(link, boot_for(link.target, link.at.ssh), broken)
    assert "did not come up; the known-good one runs again" in caught.value.what
    assert "Unable to mount root fs" in caught.value.what
    assert "tdrlab=" not in link.facts["cmdline"]
    told = [e for e in journal.read(link.run.journal.path) if e["what"] in ("tried", "recovered")]
    assert [entry.get("came", entry.get("name")) for entry in told] == [
        "reboot", True, "reboot", "power", False,
    ]  # fmt: skip
    assert link.call("run", argv=["ls", "/boot"])["stdout"].count("tdrlab-") == 2
    boot_for(link.target, link.at.ssh).prune(0, Deadline(60))
    assert "tdrlab-" not in link.call("run", argv=["ls", "/boot"])["stdout"]
