"""A kernel that GRUB takes once, for real: by hand, for a bisect's session through a panic, and one
that does not come up."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness import inventory, ways
from harness.bisect.kernels import Kernel
from harness.bisect.oracle import hear
from harness.bisect.runner import Runner
from harness.evidence import journal
from harness.evidence.rundir import RunDir
from harness.link.boots import boot_for
from harness.link.virtual import Manifest, cache_root, load_manifest
from harness.tests.inner import ROOT
from harness.tests.vm import grub, rack
from harness.verdict import recorded

TESTS = """\
def test_before(dut):
    assert "tdrlab=" in dut.facts["cmdline"]

def test_dies(dut):
    dut.call("run", argv=["sh", "-c", "echo c > /proc/sysrq-trigger"])

def test_after(dut):
    assert "tdrlab=" in dut.facts["cmdline"]
"""


@pytest.mark.deep
def test_a_kernel_is_taken_once_and_the_known_good_one_comes_back(tmp_path: Path) -> None:
    made = load_manifest()
    disks = grub.disks(made, tmp_path)
    with rack.running(made, tmp_path, "grub-box", disks, ways.GrubBoot()) as target:
        listed = rack.toml(target, tmp_path / "targets.toml", 'kind = "grub"')
        _by_hand(made, listed)
        _for_a_session(made, listed, tmp_path)
        _one_that_does_not_come_up(made, listed)
        with rack.connected(target, tmp_path / "link") as link:
            assert "tdrlab=" not in link.facts["cmdline"]
            ours = link.call("run", argv=["ls", "/boot"])["stdout"].count("tdrlab-")
            assert ours == 3
            assert len(boot_for(target, link.at.ssh).prune(1, rack.soon())) == 2
            assert link.call("run", argv=["ls", "/boot"])["stdout"].count("tdrlab-") == 1


def _lab(listed: Path, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "harness.cli", "--inventory", str(listed), "boot", "grub-box"]
    return subprocess.run([*argv, *words], cwd=ROOT, capture_output=True, text=True)


def _image(made: Manifest) -> list[str]:
    return ["--image", made.kernel, "--vmlinux", made.vmlinux]


def _by_hand(made: Manifest, listed: Path) -> None:
    done = _lab(listed, *_image(made), "--cmdline", "lab.tried=1")
    assert done.returncode == 0, done.stderr
    build = rack.vmlinux_build_id(Path(made.vmlinux))
    assert f"grub-box: {made.release} " in done.stdout
    assert f"build id {build}, boot " in done.stdout


def _for_a_session(made: Manifest, listed: Path, directory: Path) -> None:
    """As a bisect has it: a power cycle brings back another kernel, and no test is begun on it."""
    built = directory / "built"
    built.mkdir()
    shutil.copyfile(made.kernel, built / "bzImage")
    builds = {"vmlinux": rack.vmlinux_build_id(Path(made.vmlinux))}
    (built / "built.json").write_text(json.dumps({"image": "bzImage", "builds": builds}))
    tests = directory / "test_kernel.py"
    tests.write_text(TESTS)
    target = inventory.load(listed).get("grub-box")
    runner = Runner(
        listed, target, str(tests), cache_root().parent, limit_s=1500.0,
        extra=("-p", "harness.plugin", f"--rootdir={directory}"),
    )  # fmt: skip
    ran = runner.run(
        Kernel(image="bzImage", builds=builds, directory=str(built)), directory / "session"
    )
    said = (directory / "session/pytest.txt").read_text()
    assert ran.run is not None, said
    run = RunDir.open(ran.run)
    told = {name.rpartition("::")[2]: v.outcome for name, v in recorded(run).items()}
    assert told == {"test_before": "pass", "test_dies": "incomplete", "test_after": "pass"}, said
    entries = list(journal.read(run.journal.path))
    assert [e["came"] for e in entries if e["what"] == "tried"] == [True, True]
    (node,) = (name for name in recorded(run) if name.endswith("test_after"))
    assert hear(ran.run, node, None, builds).kind == "good", "told of the kernel that was tested"


def _one_that_does_not_come_up(made: Manifest, listed: Path) -> None:
    done = _lab(listed, *_image(made), "--cmdline", "root=/dev/nowhere panic=0")
    assert done.returncode == 4, done.stderr
    assert "did not come up; the known-good one runs again" in done.stderr
    assert "Unable to mount root fs" in done.stderr
