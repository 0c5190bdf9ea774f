"""What a lockdep report means for fences: who takes what inside recovery, who waits where.

One paragraph that names both code paths, in the terms of TDR: recovery may wait for no lock
whose holder may wait for a fence (Documentation/driver-api/dma-buf.rst, cross-driver contract).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from harness.kernel.cycle import Cycle, Turn, boot_primed, cycle_of, path, text
from harness.kernel.lockdep import Report
from harness.kernel.stack import Frame

__all__ = ["FENCE", "Diagnosis", "Takes", "diagnose", "driver_of", "explain"]

# The lock class that stands for fences: held in a section that signals one, taken to wait.
FENCE = "dma_fence_map"
# What a section does that it must not.
Takes = Literal[
    "console_lock", "modeset locks", "dma_resv", "allocates", "MMU notifier", "waits for work",
    "mmap_lock", "lock", "",
]  # fmt: skip
_TERMS: tuple[tuple[Takes, str, str], ...] = (
    ("console_lock", r"\(?console_(?:lock|sem|owner|mutex)\b", "takes {lock}"),
    (
        "modeset locks",
        r"crtc_ww_class_|&(?:dev->)?mode_config(?:\.|->)mutex",
        "takes the modeset locks ({lock})",
    ),
    ("dma_resv", r"reservation_ww_class_", "takes a dma_resv lock ({lock})"),
    ("allocates", r"fs_reclaim$", "allocates memory that may wait for reclaim ({lock})"),
    ("MMU notifier", r"mmu_notifier_invalidate_range", "calls MMU notifiers ({lock})"),
    ("waits for work", r"\((?:work|wq)_completion\)", "waits for work to end: {lock}"),
    ("mmap_lock", r"&mm->mmap_(?:lock|sem)", "takes {lock}"),
)
_WAITS = re.compile(r"_*dma_fence_(?:might_wait|wait|default_wait)\w*$|dma_resv_wait_timeout")
_RECOVERS = re.compile(
    r"timedout|timeout|recover|_reset|reset_|hang|wedge|handle_error|capture|coredump|resubmit"
)
# Modules that serve every driver: none of them is whose bug it is.
_HELPERS = re.compile(r"(?:drm|gpu_sched|ttm|dma_buf|cec|video|backlight|fb|sync)(?:_\w+)?$")
# A driver that is built in shows in the names of its functions.
_BUILT_IN = re.compile(
    r"_*(?P<driver>amdgpu|radeon|i915|xe|nouveau|panfrost|panthor|lima|v3d|vc4|msm|etnaviv"
    r"|virtio_gpu|vmw|vkms|vgem|qxl|tegra|host1x)_\w"
)
_ALSO = {"intel": "i915", "nvkm": "nouveau", "nv50": "nouveau", "vmw": "vmwgfx", "dm": ""}


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """`takes`: what the fence-signalling section does; "" when the cycle has none.  `driver`:
    whose code it is, by the stacks.  `text`: a paragraph."""

    takes: Takes
    driver: str
    text: str


def diagnose(report: Report) -> Diagnosis | None:
    """What the report means, or None where it tells of no order of locks."""
    cycle = cycle_of(report)
    if cycle is None:
        return None
    if report.kind == "lockdep.recursive":
        return _recursive(report)
    if any(turn.interrupt for turn in cycle.turns):
        return _interrupted(report, cycle)
    if any(turn.lock.name == FENCE for turn in cycle.turns):
        return _fenced(report, cycle.starting_with(FENCE))
    return _plain(report, cycle)


def explain(report: Report) -> str:
    """The paragraph and the cycle, as a finding carries them; "" where there is neither."""
    cycle, found = cycle_of(report), diagnose(report)
    parts = [found.text if found else "", f"lock cycle:\n{text(cycle)}" if cycle else ""]
    return "\n\n".join(part for part in parts if part)


def driver_of(stacks: Iterable[Sequence[Frame]]) -> str:
    """The driver whose code the stacks run, helpers left out; "" where they do not tell."""
    frames = [frame for stack in stacks for frame in stack]
    for frame in frames:
        if frame.module and not _HELPERS.match(frame.module):
            return frame.module
    for frame in frames:
        if match := _BUILT_IN.match(frame.function):
            return _ALSO.get(match["driver"], match["driver"])
        prefix = frame.function.lstrip("_").partition("_")[0]
        if not frame.module and _ALSO.get(prefix):
            return _ALSO[prefix]
    return ""


def _fenced(report: Report, cycle: Cycle) -> Diagnosis:
    (fence, *others) = cycle.turns
    if not others:  # a section inside a wait, or a wait inside a section
        return _recursive(report)
    taken = others[0]
    takes, does = _does(taken)
    if takes == "lock" and _in_section(report):
        # What counts is what the section comes to: a lock of the core's own may lie between.
        takes = next((_does(turn)[0] for turn in others if turn.now), takes)
    driver = driver_of((taken.frames, report.backtrace if taken.now else ()))
    said = [
        _section(report, taken, does, driver),
        *_onward(others),
        _waiter(others[-1], fence),
        "So what holds the section up may itself wait for a fence that only the section can "
        "signal: neither goes on.",
    ]
    return Diagnosis(takes, driver, " ".join(said))


def _section(report: Report, taken: Turn, does: str, driver: str) -> str:
    names = path(taken.frames or (report.backtrace if taken.now else ()))
    held_in = report.held_in if report.held and report.held.name == FENCE else ""
    if held_in and held_in not in names:
        names = (held_in, *names)
    who = "Recovery" if any(_RECOVERS.search(name) for name in names) else "A path"
    return f"{_who(who, driver, names)} {does} inside a fence-signalling section."


def _who(who: str, driver: str, names: Sequence[str]) -> str:
    return f"{who}{f' in {driver}' if driver else ''}{_through(names)}"


def _does(turn: Turn) -> tuple[Takes, str]:
    """What taking this lock is, and how a sentence says it."""
    for takes, classes, words in _TERMS:
        if re.match(classes, turn.lock.name):
            return takes, words.format(lock=turn.lock.label)
    return "lock", f"takes {turn.lock.label}"


_PRIMED = "as the kernel tells lockdep at every boot (boot priming, dma_resv_lockdep)"


def _onward(turns: Sequence[Turn]) -> Iterator[str]:
    """How the chain goes on from the first of `turns`; stretches of boot priming in one."""
    primed: list[str] = []
    for held, taken in pairwise(turns):
        if boot_primed(taken.frames):
            primed = [*(primed or [held.lock.label]), taken.lock.label]
            continue
        if primed:
            yield f"{' then '.join(primed)} is an order, {_PRIMED}."
            primed = []
        yield _then(held, taken)
    if primed:
        yield f"{' then '.join(primed)} is an order, {_PRIMED}."


def _then(held: Turn, taken: Turn) -> str:
    if not taken.known:
        return f"What follows {held.lock.label} is not in the log: the report was cut."
    if not held.known:
        return f"The chain goes on to {taken.lock.label}."
    takes, does = _does(taken)
    if held.lock.name == "fs_reclaim" and takes == "MMU notifier":
        return f"Reclaim may call MMU notifiers ({taken.lock.label}): every allocation says so."
    names = path(taken.frames)
    return f"With {held.lock.label} held, {' > '.join(names) or 'another path'} {does}."


def _waiter(held: Turn, fence: Turn) -> str:
    label = held.lock.label
    if not held.known:
        return "How it comes back to the fence is not in the log."
    if boot_primed(fence.frames):
        return f"Whoever holds {label} may wait for a fence, {_PRIMED}."
    names = path(fence.frames)
    if any(_WAITS.match(frame.function) for frame in fence.frames):
        names = tuple(name for name in names if not _WAITS.match(name))
        return f"With {label} held, {' > '.join(names) or 'a task'} waits for a fence."
    who = _who("a path", driver_of([fence.frames]), names)
    return f"With {label} held, {who} enters a fence-signalling section."


def _recursive(report: Report) -> Diagnosis:
    lock, held = report.wanted, report.held
    label = lock.label if lock else FENCE
    driver = driver_of([report.backtrace])
    driver = driver or next((own.module for own in (lock, held) if own and own.module), "")
    names = path(report.backtrace)
    if report.wanted_in and report.wanted_in not in names:
        names = (*names, report.wanted_in)
    if label.startswith(("(work_completion)", "(wq_completion)", "((")):
        said = f"{_who('Work', driver, names)} waits for itself to end ({label}): it never will."
    else:
        since = f", since {report.held_in}" if report.held_in else ""
        said = f"{_who('A task', driver, names)} takes {label} and holds one such already{since}."
    takes: Takes = ""
    if _in_section(report):
        takes = _does(Turn(lock))[0] if lock else "lock"
        said += " It does so inside a fence-signalling section: whoever waits for its fences hangs."
    return Diagnosis(takes, driver, said)


def _in_section(report: Report) -> bool:
    task = next((h for h in report.holders if h.task == report.task), None)
    return any(lock.name == FENCE for lock in (task.locks if task else ()))


def _interrupted(report: Report, cycle: Cycle) -> Diagnosis:
    names = path(report.backtrace)
    first, *others = cycle.turns
    said = f"{first.lock.label} is taken in interrupts"
    if others:
        inner = others[-1].lock.label
        said += f", and under it {inner}, which is also held with interrupts on"
    else:
        said += ", and is also held with interrupts on"
    said += f"{_through(names)}: an interrupt there can wait for what it interrupted."
    return Diagnosis("", driver_of([report.backtrace]), said)


def _plain(report: Report, cycle: Cycle) -> Diagnosis:
    now, *others = cycle.turns
    driver = driver_of([now.frames, report.backtrace])
    who = _who("A task", driver, path(now.frames or report.backtrace))
    since = f", since {report.held_in}" if report.held_in else ""
    said = [
        f"{who} {_does(now)[1]} while it holds {others[-1].lock.label}{since}.",
        *_onward(cycle.turns),
    ]
    if _in_section(report):
        said.append("The task is inside a fence-signalling section: its fences wait with it.")
    said.append("So each can wait for what the other holds.")
    return Diagnosis("", driver, " ".join(said))


def _through(names: Sequence[str]) -> str:
    return f" ({' > '.join(names)})" if names else ""
