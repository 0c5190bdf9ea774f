"""The boot strategy that targets.toml names for a target."""

from __future__ import annotations

from harness import ways
from harness.errors import UsageError
from harness.inventory import Target
from harness.link.boot import Boot
from harness.link.boot_grub import GrubBoot
from harness.link.boot_pxe import PxeBoot
from harness.link.boot_systemd import SystemdBoot
from harness.link.ssh import Ssh

__all__ = ["boot_for", "bootable"]


def bootable(target: Target) -> None:
    """Raises UsageError where `target` boots as it is."""
    if not isinstance(target.boot, ways.AsIsBoot):
        return
    if target.virtual:
        raise UsageError(
            "a virtual target boots the kernel that set-up made",
            where=target.name,
            cure="name a box; lab bisect puts its kernels on virtual ones, too",
        )
    raise UsageError(
        "boots whatever it boots by itself: nothing else can be put on it",
        where=target.name,
        cure=f'add to [targets.{target.name}] boot = {{ kind = "grub" }} (or systemd-boot, pxe)',
    )


def boot_for(target: Target, ssh: Ssh) -> Boot:
    """How `target` boots a kernel of ours.  Raises UsageError where it boots as it is."""
    bootable(target)
    match target.boot:
        case ways.GrubBoot() as spec:
            return GrubBoot(ssh, spec)
        case ways.SystemdBoot() as spec:
            return SystemdBoot(ssh, spec)
        case ways.PxeBoot() as spec:
            return PxeBoot(ssh, spec)
        case ways.AsIsBoot():
            raise AssertionError(target.name)
