"""What the kernel's own test modules printed, read back."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.evidence.rundir import RunDir
from harness.kernel import modtests
from harness.kernel.records import parse
from harness.tests.kmsg import of_dmesg, raw
from harness.tests.unit.test_verdict import closed
from harness.verdict import judge

KUNIT = """\
[    1.000000]     KTAP version 1
[    1.000100]     # Subtest: drm_rect
[    1.000200]     # module: drm_rect_test
[    1.000300]     1..2
[    1.000400]     ok 1 drm_test_rect_clip
[    1.000500]         KTAP version 1
[    1.000600]         # Subtest: drm_test_rect_rotate
[    1.000700]         ok 1 reflect-x
[    1.000800]     # drm_test_rect_rotate: EXPECTATION FAILED at drm_rect_test.c:5
[    1.000900]         not ok 2 rotate-90
[    1.001000]     not ok 2 drm_test_rect_rotate
[    1.001100] not ok 1 drm_rect
"""
DMA_BUF = """\
[    2.000000] dma-buf: Running dma_fence
[    2.000100] dma-buf: Running dma_fence/test_signaling
[    2.000200] dma-buf: Running dma_fence/test_wait
[    2.000300] dma-buf/dma_fence: test_wait failed with error -62
"""
WW = "[    3.000000] Beginning ww mutex selftests\n"
ALL_WELL = "[    3.000200] All ww mutex selftests passed\n"


def test_innermost_results_are_the_tests() -> None:
    told = modtests.find(parse(of_dmesg(KUNIT)))
    assert [(test.name, test.outcome) for test in told] == [
        ("drm_rect/drm_test_rect_clip", "pass"),
        ("drm_rect/drm_test_rect_rotate/reflect-x", "pass"),
        ("drm_rect/drm_test_rect_rotate/rotate-90", "fail"),
    ]
    assert told[2].title == "KUnit test drm_rect/drm_test_rect_rotate/rotate-90 fails"


def test_dma_bufs_and_ww_mutexes() -> None:
    signaling, wait = modtests.find(parse(of_dmesg(DMA_BUF)))
    assert (signaling.name, signaling.outcome) == ("dma_fence/test_signaling", "pass")
    assert (wait.outcome, wait.why, wait.seq) == ("fail", "ETIME", 3)
    (passed,) = modtests.find(parse(of_dmesg(WW + ALL_WELL)))
    assert (passed.sort, passed.outcome) == ("ww_mutex", "pass")
    error = raw(1, 3_000_100, "test_aa: initial lock failed!", prefix=3)
    (failed,) = modtests.find(parse(of_dmesg(WW) + error))
    assert (failed.title, failed.why) == ("ww_mutex test fails", "test_aa: initial lock failed!")


def test_what_userspace_writes_is_no_test() -> None:
    assert modtests.find(parse(of_dmesg(KUNIT + WW).replace(b"4,", b"12,"))) == []


@pytest.mark.parametrize(
    ("log", "titles"),
    [
        (KUNIT, ["KUnit test drm_rect/drm_test_rect_rotate/rotate-90 fails"]),
        (DMA_BUF, ["dma-buf test dma_fence/test_wait fails"]),
        (WW, ["ww_mutex test fails"]),
        (WW + ALL_WELL, []),
    ],
)
def test_one_that_fails_is_a_finding(tmp_path: Path, log: str, titles: list[str]) -> None:
    stream = of_dmesg(log)
    window = closed(RunDir.create(tmp_path, "box"), stream, stream.count(b"\n") - 1)
    verdict = judge(RunDir(next(tmp_path.glob("*-box-*"))), window)
    assert [finding.title for finding in verdict.findings] == titles
    assert verdict.outcome == ("fail" if titles else "pass")
