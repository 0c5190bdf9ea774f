"""A systemd-boot entry that is taken once: the loader removes LoaderEntryOneShot as it reads it.

An entry of its own by the Boot Loader Specification, type 1; the default stays, and where
ours could become it the machine is refused.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

from harness import ways
from harness.deadline import Deadline
from harness.errors import TargetError, UsageError
from harness.link.boot import Kernel, Staged
from harness.link.boot_files import IMAGE, INITRAMFS, PREFIX, Files
from harness.link.ssh import Ssh

__all__ = ["SystemdBoot"]

# The loader's own settings (the Boot Loader Interface): four bytes of attributes, then UTF-16.
_DEFAULT = "/sys/firmware/efi/efivars/LoaderEntryDefault-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"


class SystemdBoot:
    """By systemd-boot on the target of `ssh`."""

    reverts = True

    def __init__(self, ssh: Ssh, spec: ways.SystemdBoot) -> None:
        self._spec = spec
        self._files = Files(ssh, spec.boot, spec.modules, spec.initramfs)
        self._where = ssh.endpoint.where

    def install(self, kernel: Kernel, deadline: Deadline) -> Staged:
        if re.search(r"[\n\r]", kernel.cmdline):
            raise UsageError(
                "a command line is one line", where=self._where, cure="take the newlines out"
            )
        # It says so itself, where the machine was started otherwise.
        self._files.root("bootctl", "--quiet", "is-installed", deadline=deadline)
        self._check(deadline)
        staged = self._files.put(kernel, deadline)
        words = self._files.cmdline(staged.id, kernel, deadline)
        has = self._files.has_initramfs(kernel)
        initrd = f"initrd /{PREFIX}{staged.id}/{INITRAMFS}\n" if has else ""
        entry = (
            f"title {PREFIX}{staged.id} {kernel.release}\n"
            f"version {kernel.release}\n"
            # It comes last of those that have one, whatever its version.
            "sort-key zz-tdrlab\n"
            f"linux /{PREFIX}{staged.id}/{IMAGE}\n"
            f"{initrd}options {words}\n"
        )
        self._files.write(self._entry(staged.id), entry.encode(), deadline)
        return staged

    def once(self, staged: Staged, deadline: Deadline) -> None:
        self._files.root("bootctl", "set-oneshot", f"{PREFIX}{staged.id}.conf", deadline=deadline)

    def home(self, deadline: Deadline) -> None:
        self._files.root("bootctl", "set-oneshot", "", deadline=deadline)

    def prune(self, keep: int, deadline: Deadline) -> list[str]:
        removed = self._files.prune(keep, deadline)
        for name in removed:
            self._files.root("rm", "-f", "--", self._entry(name), deadline=deadline)
        return removed

    def _entry(self, name: str) -> str:
        return f"{self._spec.boot}/loader/entries/{PREFIX}{name}.conf"

    def _check(self, deadline: Deadline) -> None:
        """Raises TargetError where the loader would take an entry of ours without being told: it
        has no default that is another's, and takes the first that it lists (systemd-boot(7)).
        Entries with a sort-key, and images with a kernel inside, are listed before ours; one
        without comes after it."""
        esp = self._files.root("bootctl", "--print-esp-path", deadline=deadline).strip()
        default = self._default(esp, deadline)
        names = self._names(f"{self._spec.boot}/loader/entries", deadline)
        whole = self._names(f"{esp}/EFI/Linux", deadline)
        whole += self._names(f"{self._spec.boot}/EFI/Linux", deadline)
        # It compares both in lower case (config_entry_find).
        if any(fnmatchcase(name.lower(), default.lower()) for name in [*names, *whole]):
            if not fnmatchcase(f"{PREFIX}0.conf", default.lower()):
                return
        elif not default:
            texts = (
                self._files.text(f"{self._spec.boot}/loader/entries/{name}", deadline)
                for name in names
            )
            if whole or any(re.search(r"(?m)^sort-key\s", text) for text in texts):
                return
        raise TargetError(
            "systemd-boot there may take an entry of ours at every boot: its default is"
            f" {default or 'the first that it lists'}",
            where=self._where,
            cure="bootctl set-default ID there, by the id in `bootctl list` of the kernel that is"
            " to come up by itself",
        )

    def _default(self, esp: str, deadline: Deadline) -> str:
        """The pattern of the default entry's name; "" where none is set."""
        told = self._files.ssh.run(["cat", "--", _DEFAULT], deadline, root=True).stdout
        if pattern := told[4:].decode("utf-16-le", "replace").rstrip("\0"):
            return pattern
        settings = self._files.text(f"{esp}/loader/loader.conf", deadline)
        found = re.findall(r"(?m)^default\s+(\S+)", settings)
        return found[-1] if found else ""

    def _names(self, folder: str, deadline: Deadline) -> list[str]:
        """The entries there that are not ours."""
        done = self._files.ssh.run(["ls", "-1", "--", folder], deadline, root=True)
        names = done.stdout.decode(errors="replace").splitlines() if done.ok else []
        return [name for name in names if not name.startswith(PREFIX)]
