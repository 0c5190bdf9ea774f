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
from harness.evidence.files import write_bytes
from harness.evidence.rundir import RunDir
from harness.kernel import pstore
from harness.link.agent import Agent
from harness.live.deaths import boots_of, test_of

__all__ = ["collect"]

log = logging.getLogger(__name__)

# Where the kernel shows it.
_KERNEL = "/sys/fs/pstore"
# Where systemd-pstore.service moves it at boot: what is of EFI's variables into TIME/COUNT, of
# ERST's into NUMBER, with a dmesg.txt made of all in a folder (systemd-pstore.service(8)).
_ARCHIVE, _DEPTH, _WHOLE = "/var/lib/systemd/pstore", 2, "dmesg.txt"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}")
# Bytes of one file, and how many files and folders are looked at.
_LIMIT, _MOST = 1 << 20, 512


def collect(agent: Agent, run: RunDir, boots: Sequence[str], deadline: Deadline) -> None:
    """Fetch what is there of `boots`, of which the last is the current one.

    What is of none of them was there before the run, and is kept with the current one.
    Never raises while the link lives: a target need not have any pstore.
    """
    try:
        found = {path.rpartition("/")[2]: (path, data) for path, data in _fetch(agent, deadline)}
        dumps = pstore.joined({name: data for name, (_, data) in found.items()})
        owners = boots_of(run, boots[:-1], list(dumps.values()))
        for names, boot in zip(pstore.groups(found), owners, strict=True):
            folder = run.boot(boot) / "pstore" if boot else run.boot(boots[-1]) / "pstore-before"
            folder.mkdir(exist_ok=True)
            for name in names:
                path, data = found[name]
                write_bytes(folder / name, data)
                agent.call("run", deadline, argv=["rm", "-f", path], timeout=10)
                run.journal.add("pstore", file=name, boot=boot, test=test_of(run, boot))
    except (HarnessError, OSError) as error:
        if not agent.alive:
            raise
        log.warning("no pstore: %s", error)


def _fetch(agent: Agent, deadline: Deadline) -> Iterator[tuple[str, bytes]]:
    """Each file by its path; one of a name that was there before is left for the next boot."""
    names: set[str] = set()
    for path in [*_files(agent, _KERNEL, 0, deadline), *_files(agent, _ARCHIVE, _DEPTH, deadline)]:
        name = path.rpartition("/")[2]
        if name in names:
            continue
        names.add(name)
        try:
            data = agent.call("read", deadline, path=path, limit=_LIMIT)["data"]
        except TargetError as error:
            if not agent.alive:
                raise
            log.warning("pstore: %s", error)
            continue
        yield path, b64decode(data)


def _files(agent: Agent, place: str, depth: int, deadline: Deadline) -> list[str]:
    """The files below `place`, `depth` folders deep; of a folder that has the parts of a dump, not
    what was made of them, which goes with them."""
    try:
        names = agent.call("listdir", deadline, path=place)["names"]
    except TargetError:
        if not agent.alive:
            raise
        return []  # no such place
    names = [name for name in names[:_MOST] if _NAME.fullmatch(name)]
    files = []
    for name in names:
        # What systemd makes are folders of digits, and files of none.
        if depth and name.isdecimal():
            files += _files(agent, f"{place}/{name}", depth - 1, deadline)
        elif not (name == _WHOLE and len(names) > 1):
            files.append(f"{place}/{name}")
        else:
            agent.call("run", deadline, argv=["rm", "-f", f"{place}/{name}"], timeout=10)
    return files
