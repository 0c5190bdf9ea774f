"""This host: which boot the harness itself runs on, and which commit of it."""

from __future__ import annotations

from pathlib import Path

__all__ = ["boot_id", "commit"]


def boot_id() -> str:
    """This machine's boot_id, so that it is never taken for a target; "" where unknown."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def commit() -> str:
    """The harness's own commit, read without running git: evidence must not depend on it.

    "" outside a checkout, or where the branch is packed.
    """
    git = Path(__file__).resolve().parent.parent / ".git"
    try:
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        return (git / head.removeprefix("ref: ")).read_text().strip()
    except OSError:
        return ""
