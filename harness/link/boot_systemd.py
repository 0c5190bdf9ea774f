"""A systemd-boot entry that is taken once: the loader removes LoaderEntryOneShot as it reads it.

An entry of its own by the Boot Loader Specification, type 1; the default stays.
"""

from __future__ import annotations

import re

from harness import ways
from harness.deadline import Deadline
from harness.errors import UsageError
from harness.link.boot import Kernel, Staged
from harness.link.boot_files import IMAGE, INITRAMFS, PREFIX, Files
from harness.link.ssh import Ssh

__all__ = ["SystemdBoot"]


class SystemdBoot:
    """By systemd-boot on the target of `ssh`."""

    reverts = True

    def __init__(self, ssh: Ssh, spec: ways.SystemdBoot) -> None:
        self._spec = spec
        self._files = Files(ssh, spec.boot, spec.modules)
        self._where = ssh.endpoint.where

    def install(self, kernel: Kernel, deadline: Deadline) -> Staged:
        if re.search(r"[\n\r]", kernel.cmdline):
            raise UsageError(
                "a command line is one line", where=self._where, cure="take the newlines out"
            )
        # It says so itself, where the machine was started otherwise.
        self._files.root("bootctl", "--quiet", "is-installed", deadline=deadline)
        staged = self._files.put(kernel, deadline)
        words = self._files.cmdline(staged.id, kernel, deadline)
        initrd = f"initrd /{PREFIX}{staged.id}/{INITRAMFS}\n" if kernel.initramfs else ""
        entry = (
            f"title {PREFIX}{staged.id} {kernel.release}\n"
            f"version {kernel.release}\n"
            # It comes last in the menu, whatever its version.
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
