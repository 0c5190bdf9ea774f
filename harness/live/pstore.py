"""Pstore: what a boot left in memory that outlives it, fetched by the next boot's agent.

Kept with the boot that it is of, told by its own lines, and removed from the target, so
that no later death is taken for this one.
"""

from __future__ import annotations

import logging
import re
from base64 import b64decode
from collections.abc import Iterator, Sequence

from harness.deadline import Deadline
from harness.errors import HarnessError, TargetError
from harness.evidence import journal
from harness.evidence.files import write_bytes
from harness.evidence.packed import plain
from harness.evidence.rundir import RunDir
from harness.kernel import pstore, records
from harness.kernel.records import Record
from harness.link.agent import Agent

__all__ = ["collect"]

log = logging.getLogger(__name__)

# Where the kernel shows it, and where systemd-pstore.service moves it at boot.
_PLACES = ("/sys/fs/pstore", "/var/lib/systemd/pstore")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}")
_LIMIT = 1 << 20
# So many boots back it may be of.
_BACK = 3


def collect(agent: Agent, run: RunDir, boots: Sequence[str], deadline: Deadline) -> str:
    """Fetch what is there; which of `boots`, of which the last is the current one, had died, or "".

    What is of none of them was there before the run, and is kept with the current one.
    Never raises while the link lives: a target need not have any pstore.
    """
    dead = ""
    try:
        for place in _PLACES:
            for name, data in _fetch(agent, place, deadline):
                past = [boot for boot in boots[:-1]][-_BACK:]
                boot = pstore.owner(data, [(boot, _records(run, boot)) for boot in past])
                folder = (
                    run.boot(boot) / "pstore" if boot else run.boot(boots[-1]) / "pstore-before"
                )
                folder.mkdir(exist_ok=True)
                write_bytes(folder / name, data)
                agent.call("run", deadline, argv=["rm", "-f", f"{place}/{name}"], timeout=10)
                test = _test(run, boot)
                run.journal.add("pstore", file=name, boot=boot, test=test)
                dead = boot if boot and pstore.is_dump(data) else dead
    except (HarnessError, OSError) as error:
        if not agent.alive:
            raise
        log.warning("no pstore: %s", error)
    return dead


def _fetch(agent: Agent, place: str, deadline: Deadline) -> Iterator[tuple[str, bytes]]:
    try:
        names = agent.call("listdir", deadline, path=place)["names"]
    except TargetError:
        return  # no such place
    for name in names:
        if _NAME.fullmatch(name):
            path = f"{place}/{name}"
            yield name, b64decode(agent.call("read", deadline, path=path, limit=_LIMIT)["data"])


def _records(run: RunDir, boot: str) -> Iterator[Record]:
    """All that is known of a boot."""
    for name, read in (("kmsg", records.parse), ("console.log", records.parse_console)):
        path = plain(run.boot(boot) / name)
        if path.exists():
            with path.open("rb") as stream:
                yield from read(stream)


def _test(run: RunDir, boot: str) -> str:
    """The last one that began on that boot."""
    begun = [
        entry["test"]
        for entry in journal.read(run.journal.path)
        if entry["what"] == "test-start" and entry.get("boot") == boot
    ]
    return begun[-1] if boot and begun else ""
