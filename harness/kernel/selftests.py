"""i915's own selftests: which groups a module has, and what a run of them printed.

Wording and parameters: drivers/gpu/drm/i915/selftests/i915_selftest.c, the same since 4.12.
Groups run at module load (mock) or when the driver takes its device (live).
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from harness.kernel.records import Record

__all__ = [
    "MODULE",
    "PASSED",
    "Group",
    "Kind",
    "Run",
    "Subtest",
    "arguments",
    "find",
    "groups",
    "leave_out",
    "result",
]

MODULE = "i915"
Kind = Literal["mock", "live"]

# Embeds the line of i915_mock_selftests.h, so that the order is that of the list.
_PARAMETER = re.compile(
    r"^(?:parm:\s+)?(?P<name>igt__(?P<line>\d+)__(?P<kind>\w+?)_(?P<group>\w+)):"
)
_BEGIN = re.compile(
    r"^i915: Performing (?P<kind>\w+) selftests with st_random_seed=(?P<seed>0x\w+)"
)
_RUNNING = re.compile(r"^i915: Running (?P<suite>\w+)(?:/(?P<subtest>\w+))?$")
_FAILED = re.compile(
    r"^i915/(?P<suite>\w+): (?:setup failed for (?P<unset>\w+)"
    r"|(?P<subtest>\w+) failed with error (?P<error>-?\d+))$"
)


@dataclass(frozen=True, slots=True)
class Group:
    """A row of the module's list of selftests, and the parameter that chooses it."""

    name: str
    kind: Kind
    parameter: str


@dataclass(slots=True)
class Subtest:
    """One function of a group.  `seq` is the record that tells of its start or its failure;
    `error` is 0 or a negative errno; `seconds` until the kernel went on to the next, None for
    one that nothing followed."""

    name: str
    seq: int = 0
    error: int = 0
    seconds: float | None = None


@dataclass(slots=True)
class Run:
    """What one group did, as the log tells it."""

    group: str
    kind: str
    seed: str
    subtests: list[Subtest] = field(default_factory=list)

    @property
    def failed(self) -> list[Subtest]:
        """Those that ended with an error, in order: at most one, since the kernel stops there."""
        return [subtest for subtest in self.subtests if subtest.error]


def groups(parameters: str, kind: Kind) -> list[Group]:
    """The groups in the text of `modinfo -F parm`, in the kernel's order; none where the module
    was built without CONFIG_DRM_I915_SELFTEST."""
    found = [match for line in parameters.splitlines() if (match := _PARAMETER.match(line))]
    found.sort(key=lambda match: int(match["line"]))
    return [Group(m["group"], kind, m["name"]) for m in found if m["kind"] == kind]


def arguments(chosen: Sequence[Group], without: Iterable[str] = ()) -> list[str]:
    """The module parameters that run these groups of one kind, up to the first that fails, and
    then leave the device without a driver; `without` are subtests to leave out."""
    chosen_ones = [f"{group.parameter}=1" for group in chosen]
    return [f"{chosen[0].kind}_selftests=-1", *leave_out(without), *chosen_ones]


def leave_out(names: Iterable[str]) -> list[str]:
    """The module parameter that leaves subtests out, of i915 and of dma-buf
    (drivers/dma-buf/selftest.c, apply_subtest_filter())."""
    filtered = ",".join(f"!{name}" for name in names)
    return [f"st_filter={filtered}"] if filtered else []


def result(kind: Kind) -> str:
    """The parameter that then holds how it ended: PASSED or a negative errno."""
    return f"{kind}_selftests"


PASSED = -errno.ENOTTY
"""What i915_mock_selftests() and i915_live_selftests() leave there when none failed."""


def find(records: Iterable[Record]) -> list[Run]:
    """What every group in `records` did, in order."""
    runs: list[Run] = []
    kind = seed = ""
    began = 0
    for record in records:
        if record.facility:
            continue
        for line in record.lines():
            if match := _BEGIN.match(line):
                kind, seed = match["kind"], match["seed"]
            elif match := _RUNNING.match(line):
                _lasted(runs, record.usec - began)
                began = record.usec
                if match["subtest"] is None:
                    runs.append(Run(match["suite"], kind, seed))
                elif runs:
                    runs[-1].subtests.append(Subtest(match["subtest"], record.seq))
            elif (match := _FAILED.match(line)) and runs:
                _blame(runs[-1], match, record.seq)
    return runs


def _lasted(runs: list[Run], usec: int) -> None:
    if runs and runs[-1].subtests:
        last = runs[-1].subtests[-1]
        if last.seconds is None:
            last.seconds = usec / 1e6


def _blame(run: Run, match: re.Match[str], seq: int) -> None:
    """Give the error to the subtest that the line names; one whose setup failed never ran."""
    if match["unset"] is not None:
        # The setup of both kinds fails with that alone.
        run.subtests.append(Subtest(match["unset"], seq, -errno.EIO))
        return
    if not (run.subtests and run.subtests[-1].name == match["subtest"]):
        run.subtests.append(Subtest(match["subtest"]))
    run.subtests[-1].seq, run.subtests[-1].error = seq, int(match["error"])
