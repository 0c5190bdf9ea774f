"""GPU events of i915 and amdgpu in all their generations, and the recoveries they add up to."""
# ruff: noqa: E501

from __future__ import annotations

import re

import pytest

from harness.kernel import records, resets
from harness.kernel.records import Record
from harness.kernel.resets import Recovery
from harness.tests.kmsg import raw, shared

CARD = "amdgpu 0000:28:00.0: "
OLD = "[drm:amdgpu_job_timedout [amdgpu]] *ERROR* "


def recovered(*lines: str) -> list[Recovery]:
    found = (Record(n, n, 4, 0, "", line) for n, line in enumerate(lines))
    return resets.recoveries(resets.trail(found))


def only(*lines: str) -> Recovery:
    (recovery,) = recovered(*lines)
    return recovery


def test_amdgpu_full_reset_of_6_8() -> None:
    seen = only(
        f"{OLD}ring gfx_0.0.0 timeout, signaled seq=5000163, emitted seq=5000165",
        f"{OLD}Process information: process foo-comp pid 3503 thread foo-com:cs0 pid 3539",
        f"{CARD}amdgpu: GPU reset begin!",
        f"{CARD}amdgpu: BACO reset",
        f"{CARD}amdgpu: GPU reset succeeded, trying to resume",
        "[drm] VRAM is lost due to GPU reset!",
        f"{CARD}amdgpu: GPU reset(2) succeeded!",
        "[drm:amdgpu_cs_ioctl [amdgpu]] *ERROR* Failed to initialize parser -125!",
    )
    assert (seen.driver, seen.engine, seen.process, seen.pid) == (
        "amdgpu",
        "gfx_0.0.0",
        "foo-comp",
        3503,
    )
    assert (seen.scope, seen.outcome, seen.banned) == ("gpu", "recovered", True)
    assert seen.title == "amdgpu hang on gfx_0.0.0 by foo-comp: GPU reset succeeded"


def test_amdgpu_resumed_is_not_recovered() -> None:
    seen = only(
        f"{CARD}ring gfx_0.0.0 timeout, signaled seq=1, emitted seq=2",
        f"{CARD}GPU reset begin!. Source:  1",
        f"{CARD}BACO reset",
        f"{CARD}GPU reset succeeded, trying to resume",
        f"{CARD}VRAM is lost due to GPU reset!",
    )
    assert (seen.scope, seen.outcome) == ("gpu", "begun")


def test_amdgpu_ring_reset_that_fails_goes_on_to_the_gpu() -> None:
    seen = only(
        f"{CARD}[drm] AMDGPU device coredump file has been created",
        f"{CARD}ring gfx_0.0.0 timeout, signaled seq=57638, emitted seq=57641",
        f"{CARD} Process foo comp pid 2288 thread foo pid 2316",
        f"{CARD}Starting gfx_0.0.0 ring reset",
        f"{CARD}Ring gfx_0.0.0 reset failed",
        f"{CARD}GPU reset begin!. Source:  1",
        f"{CARD}GPU reset(4) succeeded!",
        f"{CARD}[drm] device wedged, but recovered through reset",
    )
    assert (seen.device, seen.process, seen.coredump) == ("0000:28:00.0", "foo comp", True)
    assert (seen.scope, seen.outcome) == ("gpu", "recovered")
    assert [event.step for event in seen.events] == [
        "coredump", "hang", "process", "reset-begin", "escalated", "reset-begin", "reset-done",
    ]  # fmt: skip


def test_amdgpu_failed_reset_keeps_its_errno_and_does_not_take_the_next_hang() -> None:
    first, second = recovered(
        f"{OLD}ring gfx timeout, last signaled seq=10, last emitted seq=12",
        f"{CARD}amdgpu: GPU reset begin!",
        f"{CARD}amdgpu: GPU reset(2) failed",
        f"{CARD}amdgpu: GPU reset end with ret = -62",
        f"{OLD}ring sdma0 timeout, signaled seq=1870, emitted seq=1872",
        f"{CARD}amdgpu: GPU reset begin!",
    )
    assert (first.engine, first.outcome, first.why) == ("gfx", "failed", "-62")
    assert (second.engine, second.outcome) == ("sdma0", "begun")


def test_two_rings_one_reset() -> None:
    first, second = recovered(
        f"{CARD}ring gfx_0.0.0 timeout, signaled seq=1, emitted seq=2",
        f"{CARD}ring sdma0 timeout, signaled seq=1, emitted seq=2",
        f"{CARD}GPU reset begin!",
        f"{CARD}GPU reset(1) succeeded!",
    )
    assert first.outcome == second.outcome == "recovered"


def test_two_cards_do_not_mix() -> None:
    first, second = recovered(
        "amdgpu 0000:03:00.0: ring gfx timeout, signaled seq=1, emitted seq=2",
        "amdgpu 0000:28:00.0: ring gfx timeout, signaled seq=1, emitted seq=2",
        "amdgpu 0000:03:00.0: GPU reset begin!",
        "amdgpu 0000:03:00.0: GPU reset(1) failed",
        "amdgpu 0000:28:00.0: GPU reset begin!",
        "amdgpu 0000:28:00.0: GPU reset(1) succeeded!",
    )
    assert [r.outcome for r in (first, second)] == ["failed", "recovered"]


def test_amdgpu_soft_recovery_and_manual_reset() -> None:
    soft, asked = recovered(
        f"{CARD}amdgpu: ring comp_1.0.0 timeout, but soft recovered",
        f"{CARD}amdgpu: GPU reset begin!",
        f"{CARD}amdgpu: GPU reset(3) succeeded!",
    )
    assert (soft.engine, soft.scope, soft.outcome) == ("comp_1.0.0", "engine", "soft-recovered")
    assert (asked.engine, asked.scope, asked.outcome) == ("", "gpu", "recovered")
    assert asked.title == "amdgpu reset without a hang: GPU reset succeeded"


I915 = "i915 0000:00:02.0: [drm] "


@pytest.mark.parametrize(
    ("lines", "engine", "process", "scope", "outcome"),
    [
        (
            [f"{I915}GPU HANG: ecode 12:1:00000000, in foo bar [1676]", f"{I915}Resetting chip for stopped heartbeat on rcs0"],
            "rcs0", "foo bar", "gpu", "begun",
        ),
        (
            [f"{I915}GPU HANG: ecode 9:1:85dffffb, in foo [1676]", f"{I915}Resetting rcs0 for preemption time out", f"{I915}foo[1676] context reset due to GPU hang"],
            "rcs0", "foo", "engine", "begun",
        ),
        (
            ["i915 0000:00:02.0: Resetting chip for stopped heartbeat on rcs0", "i915 0000:00:02.0: Xorg[722] context reset due to GPU hang"],
            "rcs0", "Xorg", "gpu", "begun",
        ),
        (
            ["i915 0000:00:02.0: GPU HANG: ecode 6:1:0xfffffffe, in foo [2483], hang on rcs0"],
            "rcs0", "foo", "", "",
        ),
        (
            ["[drm] stuck on render ring", "[drm] GPU HANG: ecode 9:0:0x84df7efc, in X [9467], reason: Ring hung, action: reset", "drm/i915: Resetting chip after gpu hang"],
            "render", "X", "gpu", "begun",
        ),
        (
            ["[drm] GPU HANG: ecode 8:0:0x86dffffb, in X [1220], reason: Ring hung, action: reset", "[drm:i915_set_reset_status [i915]] *ERROR* gpu hanging too fast, banning!", "drm/i915: Resetting chip after gpu hang", "[drm:i915_reset [i915]] *ERROR* GPU recovery failed"],
            "", "X", "gpu", "failed",
        ),
        (
            ["[drm] GPU HANG: ecode 9:0:0x85dffffb, in foo [1296], reason: Hang on render ring, action: reset", "drm/i915: Resetting chip after gpu hang"],
            "render", "foo", "gpu", "begun",
        ),
        (
            [f"{I915}GT0: Resetting chip for GuC failed to reset engine mask=0x1", f"{I915}*ERROR* GT0: Failed to reset chip"],
            "", "", "gpu", "failed",
        ),
        (
            ["[drm:i915_hangcheck_elapsed] *ERROR* Hangcheck timer elapsed... GPU hung", "[drm] capturing error event; look for more information in /debug/dri/0/i915_error_state", "[drm:i915_reset] *ERROR* GPU hanging too fast, declaring wedged!"],
            "", "", "gpu", "wedged",
        ),
    ],
    ids=["6.x chip", "engine", "5.6 no ecode", "5.2", "4.3", "4.x failed", "4.13", "GuC", "3.x"],
)  # fmt: skip
def test_i915_generations(
    lines: list[str], engine: str, process: str, scope: str, outcome: str
) -> None:
    seen = only(*lines)
    assert (seen.driver, seen.engine, seen.process) == ("i915", engine, process)
    assert (seen.scope, seen.outcome) == (scope, outcome)


def test_i915_reset_that_is_not_said_to_fail_is_only_begun() -> None:
    first, second = recovered(
        f"{I915}GPU HANG: ecode 3:0:00000000",
        f"{I915}Resetting chip for no heartbeat on rcs0",
        f"{I915}GPU HANG: ecode 3:0:00000000",
        f"{I915}Resetting chip for no heartbeat on rcs0",
        f"{I915}*ERROR* Failed to reset chip",
    )
    assert (first.outcome, second.outcome) == ("begun", "failed")
    assert first.title == "i915 hang on rcs0: GPU reset begun, no end in the log"


@pytest.mark.parametrize(
    "line",
    [
        "amdgpu 0000:28:00.0: amdgpu: GPU reset succeeded, trying to resume",
        "[drm] GPU hangs can indicate a bug anywhere in the entire gfx stack, including userspace.",
        "[drm] The gpu crash dump is required to analyze gpu hangs, so please always attach it.",
        "Asynchronous wait on fence 0000:00:02.0:foo[1820]:2f8d4 timed out (hint:bar [i915])",
        "usb 1-1: reset high-speed USB device number 2 using xhci_hcd",
        "ata1.00: configured for UDMA/133 after reset",
        "systemd[1]: Resetting chip for fun",
    ],
)
def test_what_is_no_event(line: str) -> None:
    assert list(resets.trail(records.parse(raw(1, 1, line)))) == []


def test_userspace_cannot_forge_an_event() -> None:
    forged = raw(1, 1, "i915 0000:00:02.0: Resetting chip for fun", prefix=12)
    assert list(resets.trail(records.parse(forged))) == []


def test_every_row_is_found_by_a_hint() -> None:
    """A bulk scan by the hints alone may miss no event: proven on all lines of this file."""
    text = open(__file__, encoding="utf-8").read()  # noqa: SIM115
    lines = re.findall(r'"((?:amdgpu|i915|\[drm|drm/i915|\{CARD\}|\{I915\}|\{OLD\})[^"]*)"', text)
    filled = [
        line.replace("{CARD}", CARD).replace("{I915}", I915).replace("{OLD}", OLD) for line in lines
    ]
    events = [
        e for n, line in enumerate(filled) for e in resets.trail([Record(n, n, 4, 0, "", line)])
    ]
    assert len(events) > 40
    for event in events:
        assert any(hint.decode() in event.text for hint in resets.HINTS), event.text


def test_details_are_no_milestones() -> None:
    lines = (
        f"{CARD}ring gfx timeout, signaled seq=1, emitted seq=2",
        f"{CARD}GPU reset begin!",
        f"{CARD}MODE1 reset",
        f"{CARD}GPU reset(1) succeeded!",
        f"{CARD}[drm] device wedged, but recovered through reset",
    )
    found = resets.find(Record(n, n, 4, 0, "", line) for n, line in enumerate(lines))
    assert [event.step for event in found] == ["hang", "reset-begin", "reset-done"]
    assert [event.outcome for event in found] == ["", "", "recovered"]
    assert {event.driver for event in found} == {"amdgpu"}


# What a person reads out of the collection's logs: engine, process, scope, outcome of each hang.
EXPECTED = {
    "002": [("gfx_0.0.0", "InsurgencyClien", "gpu", "failed"), ("sdma0", "", "gpu", "begun")],
    "004": [
        ("sdma0", "", "engine", "recovered"),
        ("gfx_0.0.0", "mpv", "engine", "recovered"),
        ("comp_1.1.0", "mpv", "engine", "recovered"),
    ],
    "007": [("rcs0", "spring-main", "gpu", "begun"), ("rcs0", "", "gpu", "begun")],
    "008": [("render", "Xorg", "gpu", "begun")] * 2,
    "010": [("rcs0", "", "gpu", "begun")],
    "011": [("rcs0", "", "gpu", "begun")] * 3,
    "013": [("rcs0", "Xorg", "gpu", "begun"), ("rcs0", "kwin_x11", "gpu", "begun")],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_collected_logs(name: str) -> None:
    path = shared(f"corpus/gpu/{name}.txt")
    if not path.exists():
        pytest.skip("the collected logs are not beside this checkout")
    prefix = re.compile(r"^(?:.*? kernel: )?(?:\[ *\d+\.\d+\] )?")
    lines = (line for line in path.read_text().split("\n") if not line.startswith("#"))
    seen = recovered(*(prefix.sub("", line) for line in lines))
    assert [(r.engine, r.process, r.scope, r.outcome) for r in seen] == EXPECTED[name]


def test_a_reset_that_fails_and_wedges_has_one_end() -> None:
    begin = "i915 0000:00:02.0: [drm] GT0: Resetting chip for stopped heartbeat on rcs0"
    failed = "i915 0000:00:02.0: [drm] *ERROR* GT0: Failed to reset chip"
    wedged = "i915 0000:00:02.0: [drm] device wedged, needs recovery"

    def going_on(*lines: str) -> bool:
        return resets.going_on(
            resets.find(Record(n, n, 4, 0, "", line) for n, line in enumerate(lines))
        )

    assert going_on(begin)
    assert not going_on()
    assert not going_on(begin, failed)
    assert not going_on(begin, failed, wedged)
    assert going_on(begin, failed, wedged, begin)
