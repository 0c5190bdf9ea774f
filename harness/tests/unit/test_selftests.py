"""What a run of i915's selftests printed, read back."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from harness.evidence.rundir import RunDir
from harness.kernel.records import Record, parse
from harness.kernel.selftests import Group, Subtest, arguments, find, groups, result
from harness.live.module import Module
from harness.live.selftests import loads
from harness.tests.kmsg import of_dmesg, raw
from harness.tests.unit.test_verdict import closed
from harness.verdict import judge

# `modinfo -F parm i915` of 6.12.117, cut.
PARAMETERS = """\
modeset:Deprecated. Use kernel command line nomodeset instead. (int)
igt__19__mock_shmem:bool
igt__18__mock_sanitycheck:bool
igt__35__mock_memory_region:bool
igt__18__live_sanitycheck:bool
igt__55__live_late_gt_pm:bool
igt__18__perf_engine_cs:bool
st_random_seed:uint
mock_selftests:Run selftests before loading, using mock hardware (0:disabled [default]) (int)
"""

LOG = """\
[   74.669797] Setting dangerous option mock_selftests - tainting kernel
[   74.777824] i915: Performing mock selftests with st_random_seed=0xb4047347 st_timeout=500
[   74.788128] i915: Running sanitycheck
[   74.788200] i915: i915_mock_sanitycheck() - ok!
[   74.788300] i915: Running fence
[   74.788810] i915: Running i915_sw_fence_mock_selftests/test_self
[   75.291180] i915: Running i915_sw_fence_mock_selftests/test_dma_fence
[   78.751828] Asynchronous wait on fence mock:mock:0 timed out (hint:fence_notify [i915])
[   79.291180] i915/i915_sw_fence_mock_selftests: test_dma_fence failed with error -22
"""


def test_groups_are_the_kernels_list_in_its_order() -> None:
    assert [g.name for g in groups(PARAMETERS, "mock")] == ["sanitycheck", "shmem", "memory_region"]
    assert [g.name for g in groups(PARAMETERS, "live")] == ["sanitycheck", "late_gt_pm"]
    assert groups("modeset:Deprecated. (int)\n", "mock") == []


def test_listing_with_labels_is_read_as_well() -> None:
    (group,) = groups("parm:           igt__19__mock_shmem:bool\n", "mock")
    assert arguments([group]) == ["mock_selftests=-1", "igt__19__mock_shmem=1"]
    assert arguments([group, group], ["igt_a", "igt_b"])[1] == "st_filter=!igt_a,!igt_b"
    assert result("mock") == "mock_selftests"


def test_log_of_a_run_gives_each_subtest_its_time_and_its_error() -> None:
    sanity, fence = find(parse(of_dmesg(LOG)))
    assert (sanity.group, sanity.kind, sanity.subtests) == ("sanitycheck", "mock", [])
    assert (fence.group, fence.seed) == ("fence", "0xb4047347")
    assert fence.subtests == [
        Subtest("test_self", 5, 0, 0.50237),
        Subtest("test_dma_fence", 8, -22),
    ]
    assert fence.failed == [fence.subtests[1]]


def test_setup_that_fails_is_the_subtests_failure() -> None:
    log = (
        "[    1.000000] i915: Running active\n"
        "[    1.000100] i915/i915_active_live_selftests: setup failed for live_active_wait\n"
    )
    (run,) = find(parse(of_dmesg(log)))
    assert [subtest.name for subtest in run.failed] == ["live_active_wait"]


def test_what_userspace_writes_is_no_selftest() -> None:
    assert find(parse(raw(0, 1, "i915: Running fence", prefix=12))) == []


def test_failing_selftest_is_a_finding_and_a_passing_one_is_none(tmp_path: Path) -> None:
    stream = of_dmesg(LOG)
    window = closed(RunDir.create(tmp_path, "box"), stream, stream.count(b"\n") - 1)
    verdict = judge(RunDir(next(tmp_path.glob("*-box-*"))), window)
    assert verdict.outcome == "fail"
    (finding,) = verdict.findings
    assert finding.title == "mock selftest fence/test_dma_fence fails with EINVAL"
    assert finding.place is not None
    assert (finding.place.first, finding.text) == (8, "st_random_seed=0xb4047347")
    passed = LOG.replace("i915/i915_sw_fence_mock_selftests: test_dma_fence failed with", "told of")
    again = closed(RunDir.create(tmp_path, "two"), of_dmesg(passed), stream.count(b"\n") - 1)
    assert judge(RunDir(next(tmp_path.glob("*-two-*"))), again).outcome == "pass"


class Loaded:
    """A module of which each load runs the chosen groups up to the first that is bad."""

    def __init__(self, *bad: str) -> None:
        self.bad = bad
        self.asked: list[list[str]] = []
        self.records: list[Record] = []

    def load(self, arguments: list[str], seconds: float) -> None:
        chosen = [word.partition("=")[0] for word in arguments if word.startswith("igt__")]
        self.asked.append(chosen)
        for name in chosen:
            self.records.append(Record(0, 0, 6, 0, "", f"i915: Running {name.partition('__')[2]}"))
            if name in self.bad:
                return

    def value(self, parameter: str) -> str:
        return "-25"

    def unload(self) -> None:
        pass


@pytest.mark.parametrize(
    ("bad", "asked"),
    [
        ((), [["igt__a", "igt__b", "igt__c"]]),
        (("igt__a", "igt__b"), [["igt__a", "igt__b", "igt__c"], ["igt__b", "igt__c"], ["igt__c"]]),
        (("igt__c",), [["igt__a", "igt__b", "igt__c"]]),
    ],
)
def test_groups_after_a_failing_one_get_a_load_of_their_own(
    bad: tuple[str, ...], asked: list[list[str]]
) -> None:
    module = Loaded(*bad)
    module.load(["igt__a=1"], 1.0)  # what ran before is not counted
    chosen = [Group(name, "mock", f"igt__{name}") for name in "abc"]
    told = list(loads(cast(Module, module), chosen, (), 1.0, lambda: module.records))
    assert module.asked[1:] == asked
    assert [run.group for _, ran in told for run in ran] == ["a", "b", "c"]
    assert {ended for ended, _ in told} == {"-25"}


def test_a_load_in_which_nothing_runs_is_the_last() -> None:
    module = Loaded()
    chosen = [Group("a", "mock", "igt__a")]
    told = list(loads(cast(Module, module), chosen, (), 1.0, lambda: ()))
    assert told == [("-25", [])]
    assert len(module.asked) == 1
