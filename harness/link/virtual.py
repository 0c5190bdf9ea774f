"""What set-up made for the virtual targets, as its manifest says.

Written atomically at the end of `./tools/lab setup`, read by harness.link.qemu and
by whoever records what ran.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
from msgspec import Struct

from harness.errors import LabError

__all__ = ["Manifest", "Patch", "cache_root", "load_manifest", "manifest_path"]

FORMAT = 1


class Patch(Struct, frozen=True, forbid_unknown_fields=True):
    """A patch that was applied to the kernel."""

    name: str
    sha256: str


class Manifest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """virtual.json.  Paths are absolute; hashes are SHA-256, hexadecimal."""

    format: int = FORMAT
    kernel: str
    """bzImage."""
    vmlinux: str
    """The same kernel with its symbols, for tools that decode addresses."""
    root: str
    """ext4 image, raw, never written: machines boot from an overlay."""
    modules: str
    """ext4 image of /lib/modules, mounted read-only."""
    release: str
    """uname -r."""
    source: str
    """Debian's package and version, or the tree that was copied."""
    config_hash: str
    """Of the whole .config after olddefconfig."""
    patches: tuple[Patch, ...]
    module_hash: str
    """Of simgpu's sources."""
    key: str
    """Private SSH key of the client."""
    host_key: str
    """ "ssh-ed25519 AAAA..." of the machine."""


def cache_root() -> Path:
    """$XDG_CACHE_HOME/tdrlab, by default ~/.cache/tdrlab."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The specification has relative values ignored.
    home = Path(base) if base.startswith("/") else Path.home() / ".cache"
    return home / "tdrlab"


def manifest_path() -> Path:
    """Where set-up leaves it."""
    return cache_root() / "virtual.json"


def load_manifest(path: Path | None = None) -> Manifest:
    """Read it.  Raises LabError when it is absent, of another version, or names lost files."""
    path = path or manifest_path()
    cure = "./tools/lab setup"
    try:
        made = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except FileNotFoundError as error:
        what = "the virtual target is not set up"
        raise LabError(what, where=str(path), cure=cure) from error
    except (OSError, msgspec.DecodeError) as error:
        what = f"the virtual target's manifest cannot be used: {error}"
        raise LabError(what, where=str(path), cure=cure) from error
    if made.format != FORMAT:
        what = f"the manifest has format {made.format}, this harness reads {FORMAT}"
        raise LabError(what, where=str(path), cure=cure)
    lost = [p for p in (made.kernel, made.root, made.modules, made.key) if not Path(p).exists()]
    if lost:
        what = f"set-up's files are gone: {', '.join(lost)}"
        raise LabError(what, where=str(path), cure=cure)
    return made
