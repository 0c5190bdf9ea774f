"""A kernel that systemd-boot takes once, for real: EFI firmware, its variables, an ESP."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import ways
from harness.errors import TargetError
from harness.link.boot import Kernel
from harness.link.boot_files import mark_of
from harness.link.boots import boot_for
from harness.link.virtual import load_manifest
from harness.tests.vm import efi, rack

SETTINGS = "timeout 0\ndefault good.conf\n"
ONE_SHOT = "/sys/firmware/efi/efivars/LoaderEntryOneShot-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"


@pytest.mark.deep
def test_a_kernel_is_taken_once_and_the_known_good_one_comes_back(tmp_path: Path) -> None:
    made = load_manifest()
    disks = efi.disks(made, tmp_path, SETTINGS)
    image, build = Path(made.kernel), rack.vmlinux_build_id(Path(made.vmlinux))
    ours = Kernel(image, made.release, build, cmdline="lab.tried=1")
    broken = Kernel(image, made.release, build, cmdline="root=/dev/nowhere panic=0")
    way = ways.SystemdBoot(modules="/var/lib/modules")
    with (
        rack.running(made, tmp_path, "efi-box", disks, way, argv=efi.firmware(tmp_path)) as target,
        rack.connected(target, tmp_path / "runs") as link,
    ):
        link.lodge(ours)
        first = mark_of(link.facts["cmdline"])
        assert link.facts["cmdline"].endswith(f" tdrlab={first} lab.tried=1")
        assert link.call("run", argv=["test", "-e", ONE_SHOT])["status"] != 0, "taken, so forgotten"

        with pytest.raises(TargetError) as caught:
            link.lodge(broken)
        assert "did not come up; the known-good one runs again" in caught.value.what
        assert "Unable to mount root fs" in caught.value.what
        assert "tdrlab=" not in link.facts["cmdline"]

        assert boot_for(target, link.at.ssh).prune(1, rack.soon()) == [first]
        entries = link.call("run", argv=["ls", "/boot/loader/entries", "/boot"])["stdout"].split()
        assert f"tdrlab-{first}.conf" not in entries
        assert f"tdrlab-{first}" not in entries
        assert sum(name.startswith("tdrlab-") for name in entries) == 2
