"""Kdump: what a crash kernel wrote down of the one that died, found by the next boot's agent.

Its log is copied and kept with the boot and the test that died, told by its own lines; the
memory itself stays on the target, unless asked for, and where it lies is remembered.
"""

from __future__ import annotations

import logging
import re
from base64 import b64decode
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from harness import ways
from harness.deadline import Deadline
from harness.errors import HarnessError, TargetError
from harness.evidence import journal
from harness.evidence.files import Stream, write_bytes
from harness.evidence.rundir import RunDir
from harness.link.agent import Agent
from harness.live.deaths import boots_of, test_of

__all__ = ["collect", "loaded"]

log = logging.getLogger(__name__)

# Whether a crash kernel stands by, "1" or "0" (kernel/ksysfs.c, kexec_crash_loaded).
_LOADED = "/sys/kernel/kexec_crash_loaded"
# Debian's kdump-tools makes STAMP/dmesg.STAMP and STAMP/dump.STAMP, kdump of Red Hat's and SUSE's
# ADDRESS-DATE/vmcore-dmesg.txt and vmcore; what is still being written has "incomplete" in it.
_LOG = re.compile(r"dmesg\.\d+|(?:vmcore-)?dmesg(?:-incomplete)?\.txt")
_MEMORY = re.compile(r"(?:dump|vmcore)\.\d+|dump-incomplete|vmcore(?:-incomplete|\.flat)?")
_FOLDER = re.compile(r"(?!\.\.?$)[A-Za-z0-9._:+-]{1,120}")
# So many folders are looked into, the newest by their names; bytes of a log that are kept, and of
# a file asked for at once.
_MOST, _LIMIT, _PIECE = 32, 4 << 20, 4 << 20


class _Dump(NamedTuple):
    """One death on the target's disk: its folder, the names of its log and its memory, or ""."""

    folder: str
    log: str
    memory: str


def loaded(agent: Agent, deadline: Deadline) -> bool:
    """Whether a crash kernel stands by in this boot.  Raises where the link is gone."""
    try:
        data = agent.call("read", deadline, path=_LOADED, limit=16)["data"]
    except TargetError:
        return False  # no such kernel
    return b64decode(data).strip() == b"1"


def collect(
    agent: Agent, run: RunDir, boots: Sequence[str], spec: ways.Kdump, deadline: Deadline
) -> None:
    """Fetch what is new there of `boots`, of which the last is the current one.

    What is of none of them was there before the run, and is only noted.  Never raises while the
    link lives: a target need not have any.
    """
    try:
        known = {e["path"] for e in journal.read(run.journal.path) if e["what"] == "kdump"}
        new = [dump for dump in _dumps(agent, spec, deadline) if dump.folder not in known]
        # At the beginning of a run there is nothing that they could be of.
        logs = [_log(agent, dump, deadline) if boots[:-1] else b"" for dump in new]
        owners = boots_of(run, boots[:-1], logs)
        for dump, data, boot in zip(new, logs, owners, strict=True):
            if boot:
                folder = run.boot(boot) / "kdump"
                folder.mkdir(exist_ok=True)
                # Of two systems' names for it one; the folder's is unique there.
                name = f"dmesg-{dump.folder.rpartition('/')[2].replace(':', '')}.txt"
                write_bytes(folder / name, data)
            run.journal.add(
                "kdump",
                path=dump.folder,
                boot=boot,
                test=test_of(run, boot),
                memory=f"{dump.folder}/{dump.memory}" if dump.memory else "",
            )
            if boot and dump.memory and spec.vmcore_mib:
                _copy(agent, run, boot, f"{dump.folder}/{dump.memory}", spec)
    except (HarnessError, OSError) as error:
        if not agent.alive:
            raise
        log.warning("no kdump: %s", error)


def _dumps(agent: Agent, spec: ways.Kdump, deadline: Deadline) -> Iterator[_Dump]:
    for name in sorted(filter(_FOLDER.fullmatch, _names(agent, spec.directory, deadline)))[-_MOST:]:
        folder = f"{spec.directory.rstrip('/')}/{name}"
        files = _names(agent, folder, deadline)
        told = next(filter(_LOG.fullmatch, files), "")
        memory = next(filter(_MEMORY.fullmatch, files), "")
        if told or memory:
            yield _Dump(folder, told, memory)


def _names(agent: Agent, path: str, deadline: Deadline) -> list[str]:
    """What is in a directory; nothing where there is none."""
    try:
        return list(agent.call("listdir", deadline, path=path)["names"])
    except TargetError:
        if not agent.alive:
            raise
        return []


def _log(agent: Agent, dump: _Dump, deadline: Deadline) -> bytes:
    """The end of its log, where the death is; b"" where there is none to read."""
    if not dump.log:
        return b""
    path = f"{dump.folder}/{dump.log}"
    try:
        size = _size(agent, path, deadline)
        offset = max(0, size - _LIMIT)
        return b64decode(
            agent.call("read", deadline, path=path, offset=offset, limit=_LIMIT)["data"]
        )
    except TargetError as error:
        if not agent.alive:
            raise
        log.warning("kdump: %s", error)
        return b""


def _size(agent: Agent, path: str, deadline: Deadline) -> int:
    """In bytes.  Raises TargetError."""
    done = agent.call("run", deadline, argv=["stat", "-L", "-c", "%s", "--", path], timeout=10)
    try:
        return int(done["stdout"])
    except ValueError as error:
        raise TargetError(f"cannot be read: {done['stderr'].strip()}", where=path) from error


def _copy(agent: Agent, run: RunDir, boot: str, path: str, spec: ways.Kdump) -> None:
    """A dead kernel's memory, whole or not at all: a part of it is of no use to anybody."""
    deadline = Deadline(spec.seconds)
    size = _size(agent, path, deadline)
    if size > spec.vmcore_mib << 20:
        run.journal.add("kdump-left", path=path, size=size, limit_mib=spec.vmcore_mib)
        return
    copy = run.boot(boot) / "kdump" / path.rpartition("/")[2]
    part = copy.with_name(f"{copy.name}.part")
    stream = Stream(part, spec.vmcore_mib << 20)
    try:
        for offset in range(0, size, _PIECE):
            piece = agent.call("read", deadline, path=path, offset=offset, limit=_PIECE)
            stream.write(b64decode(piece["data"]))
            stream.check()
        stream.sync()
        part.rename(copy)
    finally:
        stream.close()
        part.unlink(missing_ok=True)
    run.journal.add("kdump-copied", path=path, size=size)
