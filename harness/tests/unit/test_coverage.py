"""What lockdep knows of a boot, read from its own two files."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.coverage import CHAINS, GRAPH, Coverage, notes, of_boot, of_run
from harness.evidence.rundir import RunDir, Window
from harness.kernel.coverage import Graph, held_in_order, unprimed
from harness.kernel.resets import GpuEvent

# As /proc/lockdep of 6.12 has it, with CONFIG_DEBUG_LOCKDEP and without, and of newer kernels
# without PROVE_LOCKING's figures.
CLASSES = """\
all lock classes:
00000000e3f018d2 FD:   30 BD:  249 ++++: dma_fence_map
 -> [0000000056aae2ac] &fence->lock
{annotated}
00000000a178a8c8 OPS:      12 FD:   56 BD:  249 +.+.: fs_reclaim
 -> [0000000032ce8743] mmu_notifier_invalidate_range_start

0000000032ce8743 FD:   55 BD:  249 +.+.: mmu_notifier_invalidate_range_start
 -> [00000000e3f018d2] dma_fence_map

00000000c084df2a FD:    1 BD:    2 ....: console_lock
{console}
0000000055d3a0a1 FD:    9 BD:    2 +.+.: reservation_ww_class_mutex
 -> [00000000a178a8c8] fs_reclaim

0000000055d3a0a2 FD:    9 BD:    2 +.+.: crtc_ww_class_mutex#2/1
 -> [00000000a178a8c8] fs_reclaim

"""
TAKEN = " -> [000000006fae483e] &sched->job_list_lock#3\n"
PRIMED = " -> [00000000a178a8c8] fs_reclaim\n"
CHAIN = """\
all lock chains:
irq_context: 0
[00000000a2d2b8e2] (wq_completion)amdgpu-reset-dev
[00000000caeb4415] (work_completion)(&(&sched->work_tdr)->work)
[00000000e3f018d2] dma_fence_map
[000000006fae483e] &sched->job_list_lock

"""
HANG = GpuEvent("hang", "gfx", 5, 5, "ring gfx timeout", "amdgpu")


def text(*, annotated: bool = True, primed: bool = True) -> str:
    return CLASSES.format(annotated=TAKEN if annotated else "", console=PRIMED if primed else "")


def boot(tmp_path: Path, classes: str, chains: str = "") -> Path:
    (tmp_path / GRAPH).write_text(classes)
    if chains:
        (tmp_path / CHAINS).write_text(chains)
    return tmp_path


def test_classes_and_their_edges_are_read() -> None:
    graph = Graph.parse(text())
    assert graph.has("dma_fence_map", "&sched->job_list_lock"), "instances of a name are one"
    way = ("fs_reclaim", "mmu_notifier_invalidate_range_start", "dma_fence_map")
    assert graph.path("fs_reclaim", "dma_fence_map") == way
    assert graph.path("dma_fence_map", "fs_reclaim") == ()
    assert unprimed(graph) == []


def test_a_lock_that_leads_to_no_wait_is_named() -> None:
    assert unprimed(Graph.parse(text(primed=False))) == ["console_lock"]
    everything = ["console_lock", "crtc_ww_class", "dma_resv", "fs_reclaim"]
    assert unprimed(Graph.parse("")) == everything
    assert unprimed(Graph.parse("all lock classes:\ngarbage\n -> [0] nobody's\n")) == everything


def test_a_chain_counts_where_its_locks_are_neighbours() -> None:
    names = ("(work_completion)(&(&sched->work_tdr)->work)", "dma_fence_map")
    assert held_in_order(CHAIN.splitlines(keepends=True), names)
    assert not held_in_order(CHAIN.splitlines(), (names[0], "&sched->job_list_lock"))
    assert not held_in_order(CHAIN.replace("[00000000e3f", "\n[00000000e3f").splitlines(), names)


@pytest.mark.parametrize(
    ("classes", "chains", "said"),
    [
        (text(), "", "primed; annotated: drm_sched_job_timedout"),
        (text(annotated=False), CHAIN, "primed; annotated: drm_sched_job_timedout"),
        (text(annotated=False), "", "not annotated here: drm_sched_job_timedout was in no"),
        (text(primed=False), "", "not primed: console_lock; annotated"),
    ],
)
def test_a_boot_says_what_it_could_see(
    tmp_path: Path, classes: str, chains: str, said: str
) -> None:
    assert said in str(of_boot(boot(tmp_path, classes, chains), "amdgpu"))


def test_what_i915_does_not_annotate_is_said(tmp_path: Path) -> None:
    captured = text().replace("&sched->job_list_lock", "&ggtt->error_mutex")
    seen = of_boot(boot(tmp_path, captured), "i915")
    assert seen.annotated
    assert "i915_gpu_coredump, but not the reset itself" in seen.path()
    assert not of_boot(boot(tmp_path, text()), "i915").annotated


def test_a_boot_without_lockdep_or_a_driver_without_back_end_claims_nothing(tmp_path: Path) -> None:
    assert of_boot(tmp_path, "amdgpu") == Coverage()
    assert "not recorded" in str(Coverage())
    assert "nothing is known" in of_boot(boot(tmp_path, text()), "nouveau").path()


@pytest.mark.parametrize(
    ("annotated", "recovered", "said"),
    [
        (True, True, []),
        (True, False, ["not annotated here: nothing ran in drm_sched_job_timedout"]),
        (False, True, ["not annotated here: drm_sched_job_timedout was in no signalling section"]),
    ],
)
def test_a_recovery_that_lockdep_did_not_watch_is_noted(
    tmp_path: Path, annotated: bool, recovered: bool, said: list[str]
) -> None:
    run = RunDir.create(tmp_path, "box")
    run.update(target={"name": "box", "driver": "amdgpu"}, boots=["b"])
    boot(run.boot("b"), text(annotated=annotated))
    window = Window(test="t", boot_id="b", first_seq=0, offset=0)
    found = notes(run, window, [HANG], recovered)
    assert [finding.title for finding in found] == said
    assert {finding.severity for finding in found} <= {"note"}
    assert notes(run, window, [], recovered) == [], "nothing was recovered"
    if annotated:
        assert notes(run, window, [HANG], None) == [], "nobody traced it"
    assert list(of_run(run)) == ["b"]
