"""Where a report was made: CPU, task, kernel, as the line over its stack says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Facts", "of"]

# kernel/printk: dump_stack_print_info(); before 3.9 "Pid: 912, comm: X Not tainted 3.1 #1"
_TASK = re.compile(
    r"(?:CPU: ?(?P<cpu>\d{1,18}) )?(?:UID: \d+ )?(?:PID|Pid): ?(?P<pid>\d{1,18}),? [Cc]omm: "
    r"(?P<comm>.{1,16}?) (?:Kdump: loaded )?(?:Not tainted|Tainted: [A-Z ]+?|G +[A-Z ]+?) "
    r"+\(?(?P<kernel>\d\.\d+\S*)"
)
_HUNG = re.compile(r"INFO: task (?P<comm>.+):(?P<pid>\d{1,18}) (?:blocked|can't die)")
_KERNEL = re.compile(r"^\s*(?:(?:Not tainted|Tainted: [A-Z ]+) )?(?P<kernel>\d\.\d+\.\S+) #\d+")


@dataclass(frozen=True, slots=True)
class Facts:
    """What is not known is None or ""."""

    cpu: int | None = None
    pid: int | None = None
    comm: str = ""
    kernel: str = ""


def of(lines: Sequence[str]) -> Facts:
    """The facts in a report's lines."""
    hung = _HUNG.search(lines[0]) if lines else None
    for line in lines:
        if (task := _TASK.search(line)) is not None:
            mine = hung or task
            cpu = int(task["cpu"]) if task["cpu"] and hung is None else None
            return Facts(cpu, int(mine["pid"]), mine["comm"], task["kernel"])
    kernel = next((match["kernel"] for line in lines if (match := _KERNEL.match(line))), "")
    if hung is not None:
        return Facts(None, int(hung["pid"]), hung["comm"], kernel)
    return Facts(kernel=kernel)
