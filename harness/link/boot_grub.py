"""A GRUB entry that is taken once: GRUB forgets `next_entry` as it reads it.

The entry stands in custom.cfg, which GRUB's own 41_custom reads, so that the
distribution's grub.cfg is never touched; the boot after it is the default one.
"""

from __future__ import annotations

import re

from harness import ways
from harness.deadline import Deadline
from harness.errors import TargetError, UsageError
from harness.link.boot import Kernel, Staged
from harness.link.boot_files import IMAGE, INITRAMFS, PREFIX, Files
from harness.link.ssh import Ssh

__all__ = ["GrubBoot"]

_BEGIN, _END = "### tdrlab: begin", "### tdrlab: end"
# GRUB can read its environment block there but not write it, so that `next_entry` would never be
# forgotten (GRUB's manual, "The GRUB environment block").
_UNWRITABLE = {"lvm", "mdraid09", "mdraid1x", "cryptodisk", "luks", "luks2", "diskfilter"}
_UNWRITABLE_FS = {"btrfs", "zfs"}
# What GRUB's script language makes something of, within a command line.
_UNSAFE = re.compile(r"[\n\r'\\]")


class GrubBoot:
    """By GRUB on the target of `ssh`."""

    reverts = True

    def __init__(self, ssh: Ssh, spec: ways.GrubBoot) -> None:
        self._spec = spec
        self._files = Files(ssh, spec.boot, spec.modules, spec.initramfs)
        self._where = ssh.endpoint.where

    def install(self, kernel: Kernel, deadline: Deadline) -> Staged:
        if _UNSAFE.search(kernel.cmdline):
            raise UsageError(
                f"GRUB cannot be told this command line: {kernel.cmdline!r}",
                where=self._where,
                cure="no newlines, quotes or backslashes",
            )
        self._check(deadline)
        staged = self._files.put(kernel, deadline)
        self._list(deadline, staged)
        return staged

    def once(self, staged: Staged, deadline: Deadline) -> None:
        self._list(deadline, staged)
        self._environment("set", f"next_entry={PREFIX}{staged.id}", deadline)

    def home(self, deadline: Deadline) -> None:
        self._environment("unset", "next_entry", deadline)

    def prune(self, keep: int, deadline: Deadline) -> list[str]:
        removed = self._files.prune(keep, deadline)
        self._list(deadline, None)
        return removed

    def _check(self, deadline: Deadline) -> None:
        """Raises TargetError where an entry of ours would not be taken, or be taken for ever."""
        main = f"{self._spec.grub}/grub.cfg"
        text = self._files.text(main, deadline)
        for word, cure in (
            ("next_entry", "run update-grub (grub-mkconfig) there"),
            ("custom.cfg", "bring back /etc/grub.d/41_custom there, and run update-grub"),
        ):
            if word not in text:
                raise TargetError(
                    f"its GRUB does not look at {word}", where=f"{self._where}: {main}", cure=cure
                )
        for what, bad in (("abstraction", _UNWRITABLE), ("fs", _UNWRITABLE_FS)):
            said = self._files.root(
                "grub-probe", f"--target={what}", self._spec.grub, deadline=deadline
            )
            if found := bad & set(said.split()):
                raise TargetError(
                    f"GRUB cannot write its environment on {', '.join(sorted(found))}, so that it"
                    " would take the entry at every boot",
                    where=f"{self._where}: {self._spec.grub}",
                    cure="a /boot of its own on a plain partition, as ext4",
                )

    def _environment(self, verb: str, what: str, deadline: Deadline) -> None:
        block = f"{self._spec.grub}/grubenv"
        self._files.root("grub-editenv", block, verb, what, deadline=deadline)
        self._files.root("sync", deadline=deadline)

    def _list(self, deadline: Deadline, staged: Staged | None) -> None:
        """Our part of custom.cfg: the entries that were there and still have files, and
        `staged`."""
        path = f"{self._spec.grub}/custom.cfg"
        text = self._files.text(path, deadline)
        before, _, rest = text.partition(f"{_BEGIN}\n")
        ours, _, after = rest.partition(f"{_END}\n")
        entries = dict(re.findall(rf"(?ms)^# ({PREFIX}\w+)\n(.*?^}}\n)", ours))
        there = {f"{PREFIX}{name}" for name in self._files.there(deadline)}
        entries = {name: entry for name, entry in entries.items() if name in there}
        if staged is not None:
            entries[f"{PREFIX}{staged.id}"] = self._entry(staged, deadline)
        body = "".join(f"# {name}\n{entry}" for name, entry in entries.items())
        wanted = f"{before}{_BEGIN}\n{body}{_END}\n{after}"
        if wanted != text:
            self._files.write(path, wanted.encode(), deadline)

    def _entry(self, staged: Staged, deadline: Deadline) -> str:
        folder = self._files.folder(staged.id)
        # As GRUB sees it: /boot may be a partition of its own.
        seen = self._files.root("grub-mkrelpath", folder, deadline=deadline).strip()
        words = self._files.cmdline(staged.id, staged.kernel, deadline)
        initrd = (
            f"\tinitrd {seen}/{INITRAMFS}\n" if self._files.has_initramfs(staged.kernel) else ""
        )
        return (
            f"menuentry '{PREFIX}{staged.id} {staged.kernel.release}' --id {PREFIX}{staged.id} {{\n"
            f"\tsearch --no-floppy --file --set=root {seen}/{IMAGE}\n"
            f"\tlinux {seen}/{IMAGE} {' '.join(map(_quoted, words.split()))}\n"
            f"{initrd}}}\n"
        )


def _quoted(word: str) -> str:
    """A word of the command line, of which GRUB's script makes nothing."""
    return word if re.fullmatch(r"[\w./:=,@+-]+", word) else f"'{word}'"
