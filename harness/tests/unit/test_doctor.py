"""What the doctor says of a trace that is whole, partial or absent."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from harness.doctor import Check, _annotation, _tracing
from harness.gpu import backend_for

__all__: list[str] = []

PROBES = {"lab:wait_begin": "on", "lab:wait_end": "on", "lab:tdr_begin": "on", "lab:tdr_end": "on"}
EVENTS = {
    "dma_fence:dma_fence_init": "on",
    "gpu_scheduler:drm_run_job": "on",
    "raw_syscalls:sys_enter": "on, filter: id == 16",
    "sched:sched_switch": "left out: it costs too much",
}


def checks(driver: str = "amdgpu", **recorder: Any) -> dict[str, Check]:
    told = {"absent": "", "cure": "", "events": EVENTS, "probes": PROBES, **recorder}
    dut: Any = SimpleNamespace(
        gpu=backend_for(driver),
        call=lambda op, path: {"names": ["something"]},
        at=SimpleNamespace(recorder=SimpleNamespace(**told)),
    )
    return {check.what: check for check in _tracing(dut)}


def test_a_whole_trace_is_well() -> None:
    assert {check.ok for check in checks().values()} == {True}


def test_a_probe_that_is_absent_is_named_with_its_reason_and_cure() -> None:
    reason = "absent: dma_fence_wait_timeout cannot be probed here"
    found = checks(probes={**PROBES, "lab:wait_end": reason})
    line = found.pop("trace of lab:wait")
    assert line.ok is None
    assert line.found == f"lab:wait_end {reason}"
    assert "CONFIG_KPROBE_EVENTS=y" in line.cure
    assert {check.ok for check in found.values()} == {True}


def test_events_that_no_kernel_module_brought_are_missed() -> None:
    found = checks(events={**EVENTS, "gpu_scheduler:drm_run_job": "absent: no such event now"})
    assert found["trace of gpu_scheduler"].ok is None
    assert found["trace of dma_fence"].ok is True


def test_without_any_trace_one_line_says_why() -> None:
    found = checks(absent="no trace: tracefs is not mounted", cure="mount it", events={})
    line = found["trace of fences"]
    assert (line.ok, line.found) == (None, "no trace: tracefs is not mounted")
    assert line.cure.startswith("mount it;")
    assert not [what for what in found if what.startswith("trace of lab")]


def test_a_driver_without_the_scheduler_is_not_asked_for_it() -> None:
    seen = checks("i915", probes={"lab:wait_begin": "on"}, events={"dma_fence:x": "on"})
    assert "trace of gpu_scheduler" not in seen
    assert "trace of lab:tdr" not in seen
    assert "trace of gpu_scheduler" in checks()
    dut: Any = SimpleNamespace(gpu=backend_for("i915"))
    told = _annotation(dut)
    assert told.ok
    assert "drm_sched" not in told.found
    assert "not the reset itself" in told.found
