"""Trial: a kernel of ours is booted once, on a machine that goes back to its own if it fails.

Told by its build id and our mark on its command line.  A machine that it does not bring up
is reset, and by the nature of an entry that is taken once its known-good kernel runs again.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from harness.deadline import Deadline
from harness.errors import HarnessError, TargetError
from harness.evidence.rundir import RunDir
from harness.kernel import pstore
from harness.kernel.merge import segments
from harness.kernel.records import Record, parse_console
from harness.link.boot import Boot, Kernel, Staged, build_id, verify
from harness.link.boot_files import mark_of
from harness.live.uplink import Uplink

__all__ = ["boot"]

_NOTES = "/sys/kernel/notes"
# Kernels of ours that stay on a target, the one that is tried among them.
_KEEP = 3
# Lines of a kernel that did not come up, and bytes of a console's file that are looked at.
_LINES, _CONSOLE = 12, 4 << 20


def boot(link: Uplink, way: Boot, kernel: Kernel, restart: Callable[..., None]) -> Staged:
    """Have the target of `link` run `kernel`, put there by `way`.

    `restart` is the link's reboot, or something like it.  Raises TargetError where the kernel does
    not come up: then the known-good one runs, and the error tells what the other one said last;
    LabError where nothing comes up.
    """
    limits = link.target.limits
    # First: a /boot is small.
    way.prune(_KEEP - 1, Deadline(limits.boot_s))
    staged = way.install(kernel, Deadline(limits.boot_s))
    # Of another one of ours, nobody knows here what it was put beside.
    good = "" if mark_of(link.facts["cmdline"]) else _running(link)
    before = set(link.run.path.glob("boot-*"))
    link.run.journal.add("trial", kernel=kernel.release, build_id=kernel.build_id, id=staged.id)

    def home() -> None:
        # Of a way that does not go back by itself: before the machine is reset.
        way.home(Deadline(limits.command_s))

    try:
        way.once(staged, Deadline(limits.boot_s))
    except HarnessError:
        # It may be asked for all the same: nobody's next boot is to take it.
        with suppress(HarnessError):
            home()
        raise
    try:
        restart(stranded=None if way.reverts else home)
    finally:
        if not way.reverts:
            home()
    running, mark = _running(link), mark_of(link.facts["cmdline"])
    came = mark == staged.id and kernel.build_id in ("", running)
    link.run.journal.add("tried", id=staged.id, came=came, running=running)
    if came:
        return staged
    if mark or running != (good or running):
        verify(_notes(link), kernel)
    now = "another of ours" if mark else "the known-good one"
    raise TargetError(
        f"the kernel {kernel.release} ({staged.id}) did not come up; {now} runs again."
        f"  {_said(link, before)}",
        where=link.target.name,
        cure="see the console.log of the boot before; raise limits.boot_s if it is merely slow",
    )


def _running(link: Uplink) -> str:
    return build_id(_notes(link))


def _notes(link: Uplink) -> bytes:
    return b64decode(link.call("read", path=_NOTES, limit=1 << 16)["data"])


def _said(link: Uplink, before: set[Path]) -> str:
    """The last words of the boot before the one that runs, in words of our own around them."""
    lines = _last_of_another(_consoles(link.run, link.boot_id, before))
    if not lines:
        dumps = sorted((link.run.boot(link.boot_id) / "pstore-before").glob("dmesg-*"))
        lines = pstore.read(dumps[-1].read_bytes()) if dumps else []
    if not lines:
        return "It said nothing that reached us."
    return "It said last:\n" + "\n".join(f"  {record.text}" for record in lines[-_LINES:])


def _consoles(run: RunDir, boot_id: str, before: set[Path]) -> Iterable[bytes]:
    """What the console said since `before`, in order."""
    new = [path for path in run.path.glob("boot-pending-*") if path not in before]
    new.sort(key=lambda path: int(path.name.rpartition("-")[2]))
    for folder in [*new, run.boot(boot_id)]:
        path = folder / "console.log"
        if path.exists():
            with path.open("rb") as stream:
                stream.seek(max(0, path.stat().st_size - _CONSOLE))
                yield stream.read()


def _last_of_another(consoles: Iterable[bytes]) -> list[Record]:
    """The kernel's lines of the boot before the last one; the first may be the old boot's farewell,
    which is no kernel's that did not come up."""
    boots = [part for text in consoles for part in segments(parse_console(text))]
    return boots[-2] if len(boots) > 1 else []
