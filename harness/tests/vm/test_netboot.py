"""A kernel that comes by network, for real: by HTTP to iPXE, by TFTP to PXELINUX."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import TargetError
from harness.link.boot import Kernel
from harness.link.boot_files import mark_of
from harness.link.boot_pxe import PxeBoot
from harness.link.boots import boot_for
from harness.link.virtual import load_manifest
from harness.tests.vm import netboot, rack


@pytest.mark.deep
@pytest.mark.parametrize("http", [True, False], ids=["ipxe", "pxelinux"])
def test_a_kernel_comes_by_network_once(tmp_path: Path, http: bool) -> None:
    made = load_manifest()
    image, build = Path(made.kernel), rack.vmlinux_build_id(Path(made.vmlinux))
    ours = Kernel(image, made.release, build, cmdline="lab.tried=1")
    broken = Kernel(image, made.release, build, cmdline="root=/dev/nowhere panic=0")
    with (
        netboot.machine(made, tmp_path, http=http) as target,
        rack.connected(target, tmp_path / "runs") as link,
    ):
        way = boot_for(target, link.at.ssh)
        assert isinstance(way, PxeBoot)
        assert not way.config.exists(), "nobody has told it anything yet"
        link.lodge(ours)
        first = mark_of(link.facts["cmdline"])
        assert link.facts["cmdline"].endswith(f" tdrlab={first} lab.tried=1")
        assert first not in way.config.read_text(), "told to boot from its disk again"

        with pytest.raises(TargetError) as caught:
            link.lodge(broken)
        assert "did not come up; the known-good one runs again" in caught.value.what
        assert "Unable to mount root fs" in caught.value.what
        assert "tdrlab=" not in link.facts["cmdline"]
        here = [path.name.rpartition("-")[2] for path in (tmp_path / "tftp").glob("tdrlab-*")]
        assert len(here) == 2
        assert first in here
        gone = boot_for(target, link.at.ssh).prune(1, rack.soon())
        assert gone == [first]
        assert not list((tmp_path / "tftp").glob(f"tdrlab-*{first}"))
