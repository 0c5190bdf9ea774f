"""The lock cycle of a lockdep report: each class taken while the one before it is held.

What a developer looks for in a report, and what the page draws.  A cycle closes on itself:
its first class is taken while its last is held.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.kernel.lockdep import Link, Report
from harness.kernel.lockdep_lines import Lock, named, plumbing
from harness.kernel.stack import Frame

__all__ = ["Cycle", "Turn", "boot_primed", "cycle_of", "path", "taking", "text"]

# Functions named of each stack, the one that takes the lock first.
_NAMED = 4
# Where every stack of its sort begins: it tells nothing of this one.
_ROOTS = frozenset(
    {
        "process_one_work", "process_scheduled_works", "worker_thread", "kthread",
        "ret_from_fork", "ret_from_fork_asm", "kernel_thread_helper", "kernel_thread_exit",
        "kernel_thread_starter", "child_rip", "do_syscall_64", "do_syscall_x64", "x64_sys_call",
        "do_fast_syscall_32", "do_int80_syscall_32", "ret_fast_syscall", "el0_svc",
        "el0_svc_common", "do_el0_svc", "invoke_syscall", "el0t_64_sync",
        "el0t_64_sync_handler", "kernel_init", "kernel_init_freeable", "do_one_initcall",
        "do_initcalls", "start_kernel", "secondary_startup_64", "cpu_startup_entry", "do_idle",
        "entry_SYSCALL_64", "entry_SYSCALL_64_after_hwframe", "entry_SYSCALL_64_fastpath",
        "system_call_fastpath", "sysenter_do_call", "tracesys",
    }
)  # fmt: skip
_PRIMING = "dma_resv_lockdep"


@dataclass(frozen=True, slots=True)
class Turn:
    """One lock of a cycle, and how it is taken while the one before is held: `frames` of the
    stack, top first; `interrupt` when an interrupt takes it; `now` when the reporter does."""

    lock: Lock
    frames: tuple[Frame, ...] = ()
    now: bool = False
    interrupt: bool = False
    known: bool = True


@dataclass(frozen=True, slots=True)
class Cycle:
    """Turns in order; not `complete` where the report ends before the chain does, and then the
    turn that is not `known` stands for what lies between."""

    turns: tuple[Turn, ...]
    complete: bool = True

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in order, as a person says them."""
        return tuple(turn.lock.label for turn in self.turns)

    def starting_with(self, name: str) -> Cycle:
        """The same cycle told from `name` on, where it passes there."""
        at = next((n for n, turn in enumerate(self.turns) if turn.lock.name == name), 0)
        return Cycle((*self.turns[at:], *self.turns[:at]), self.complete)

    def edges(self) -> tuple[tuple[Turn, Turn], ...]:
        """(held, then taken) for every turn, in order."""
        return tuple(zip((self.turns[-1], *self.turns[:-1]), self.turns, strict=True))


def cycle_of(report: Report) -> Cycle | None:
    """The cycle of any report that has one: circular, recursive, and those through an
    interrupt.  None where the report is of another kind, or names not even two locks."""
    if report.kind == "lockdep.circular":
        return _circular(report)
    if report.kind == "lockdep.recursive" and report.wanted:
        return Cycle((Turn(report.wanted, report.backtrace, now=True),))
    if report.kind == "lockdep.inconsistent" and report.wanted:
        inside = _in_interrupt(report)
        return Cycle((Turn(report.wanted, inside or report.backtrace, interrupt=True),))
    if report.kind in ("lockdep.irq_unsafe", "lockdep.irq_inversion"):
        return _through_interrupt(report)
    return None


def _circular(report: Report) -> Cycle | None:
    links = {link.depth: link for link in report.links}
    last = max(links, default=0)
    if report.held and (not last or links[last].lock.name != report.held.name):
        # The chain starts with the held lock: its first links were lost.
        last = max(last + 1, 2 if len(report.order) == 3 else 1 + _unseen(report))
    named_anyway = {0: report.wanted, last: report.held}
    if len(report.order) == 3 and last > 1:
        named_anyway.setdefault(last - 1, named(report.order[1]))
    turns = []
    for depth in range(last + 1):
        lock = named_anyway.get(depth)
        if depth in links:
            turns.append(_turn(links[depth]))
        elif lock is not None:
            turns.append(Turn(lock, now=not depth))
        elif not turns or turns[-1].known:
            turns.append(Turn(Lock("..."), known=False))
    known = [turn for turn in turns if turn.known]
    return Cycle(tuple(turns), len(known) == len(turns)) if len(known) > 1 else None


def _unseen(report: Report) -> int:
    """1 where locks may lie between those that the report still names: only a whole scenario
    of two classes says that none do."""
    classes = {step.lock for step in report.scenario}
    return int(len(report.scenario) != 4 or len(classes) != 2)


def _turn(link: Link) -> Turn:
    return Turn(link.lock, link.frames, now=link.depth == 0)


def _through_interrupt(report: Report) -> Cycle | None:
    """lock(unsafe), interrupt, lock(safe): and somewhere unsafe is taken under safe."""
    scene = report.scenario
    order = [step.lock for step in scene if step.cpu == 1 and step.lock]
    inside = [step.lock for step in scene if step.cpu == 0 and step.lock]
    if len(inside) < 2 or not order:
        return None
    unsafe, safe = inside[0], inside[-1]
    middle = [name for name in order if name not in (safe, unsafe)]
    safely = Turn(named(safe), _in_interrupt(report), interrupt=True)
    turns = [safely, *(Turn(named(name)) for name in middle)]
    return Cycle((*turns, Turn(named(unsafe), report.backtrace, now=True)))


def _in_interrupt(report: Report) -> tuple[Frame, ...]:
    """The stack of the interrupt that takes the lock, where the report has it."""
    for what, frames in report.became:
        if what.startswith("IN-") or what.endswith("-safe"):
            return frames
    return report.backtrace if report.usage and report.usage[1].startswith("IN-") else ()


def boot_primed(frames: Sequence[Frame]) -> bool:
    """Whether only dma_resv_lockdep(), which runs at every boot, took this lock so."""
    return any(frame.function == _PRIMING for frame in frames)


def path(frames: Sequence[Frame], most: int = _NAMED) -> tuple[str, ...]:
    """The functions worth naming of a stack, the outermost first."""
    certain = [frame for frame in frames if frame.certain] or list(frames)
    names = [
        frame.function
        for frame in certain
        if not plumbing(frame.function) and frame.function not in _ROOTS
    ]
    return tuple(reversed(list(dict.fromkeys(names))[:most]))


def text(cycle: Cycle) -> str:
    """The cycle in lines: a class each, and the path that takes it."""
    first, *others = cycle.starting_with("dma_fence_map").turns
    turns = (*others, first)
    width = max(len(turn.lock.label) for turn in turns)
    lines = [f"   {first.lock.label}"]
    lines += [f"-> {turn.lock.label:{width}}  {taking(turn)}".rstrip() for turn in turns]
    return "\n".join(lines)


def taking(turn: Turn) -> str:
    """How a lock is taken, the outermost function first."""
    if not turn.known:
        return "(the report was cut here)"
    how = "boot priming" if boot_primed(turn.frames) else " > ".join(path(turn.frames))
    parts = ("in an interrupt" if turn.interrupt else "", how, "(this report)" if turn.now else "")
    return " ".join(part for part in parts if part)
