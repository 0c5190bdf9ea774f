"""Building the lockdep kernel and simgpu's module, incrementally and resumably.

One source tree and one build directory are kept, so that a killed build goes on
where it was and a changed .c of simgpu costs seconds; products are copied out.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from harness.errors import LabError
from tools.kernel import kconfig
from tools.kernel.source import SIMGPU, Source, patches, place_simgpu, simgpu_files, unpack
from tools.setup.cache import digest, digest_files, write_atomic
from tools.setup.command import run

__all__ = ["build_kernel", "build_modules", "kernel_key", "module_key"]

# Raise it when this file changes what comes out.
_RECIPE = "1"
# In the build directory: the key of the kernel that was built there last, completely.
_STAMP = ".tdrlab-kernel"
# make's short lines for a thing made: "  CC [M]  drivers/gpu/drm/...".
_MADE = re.compile(r"^  (?:CC|AS|LD|AR|HOSTCC|HOSTLD)\b")
# About how many there are, for people who wait.
_EXPECTED = 2650


def kernel_key(source: Source) -> str:
    """Changes when the kernel must be built again."""
    return digest(
        _RECIPE,
        source.key,
        kconfig.FRAGMENT.read_bytes(),
        (SIMGPU / "Kconfig").read_bytes(),
        *(part for path in patches() for part in (path.name, path.read_bytes())),
    )


def module_key(source: Source) -> str:
    """Changes when the modules must: the kernel's key and all of simgpu."""
    return digest(kernel_key(source), digest_files(SIMGPU, simgpu_files()))


def build_kernel(
    source: Source, work: Path, out: Path, *, log: Path, lock: int, on_line: Callable[[str], object]
) -> None:
    """bzImage, vmlinux, System.map, config and release into `out`.

    `work` is kept between runs.  Raises LabError when a symbol is dropped by Kconfig
    or the build fails, UsageError for another kernel than 6.12.
    """
    log.write_bytes(b"")
    _, build = _dirs(work)
    _whole(source, work, log, lock, on_line)
    for name in ("arch/x86/boot/bzImage", "vmlinux", "System.map"):
        shutil.copy2(build / name, out / Path(name).name)
    shutil.copy2(build / ".config", out / "config")
    shutil.copy2(build / "include/config/kernel.release", out / "release")


def build_modules(
    source: Source, work: Path, out: Path, *, log: Path, lock: int, on_line: Callable[[str], object]
) -> None:
    """lib/modules/RELEASE of all modules, stripped, into `out`; simgpu as it is now.

    Raises LabError when it fails.
    """
    log.write_bytes(b"")
    tree, build = _dirs(work)
    stamp = build / _STAMP
    if not stamp.exists() or stamp.read_text() != kernel_key(source):
        # The directory was used for another kernel since, or cleaned away.
        _whole(source, work, log, lock, on_line)
    place_simgpu(tree)
    _make(tree, build, ["modules"], log, lock, _counted(on_line))
    on_line("installing the modules")
    install = ["modules_install", f"INSTALL_MOD_PATH={out}", "INSTALL_MOD_STRIP=1"]
    _make(tree, build, install, log, lock, on_line)
    for link in ("build", "source"):  # they would dangle in the image
        for path in out.glob(f"lib/modules/*/{link}"):
            path.unlink()
    if not list(out.glob("lib/modules/*/kernel/drivers/gpu/drm/simgpu/amdgpu.ko")):
        raise LabError("simgpu's amdgpu.ko was not built", where=str(log), cure="see the log")


def _whole(
    source: Source, work: Path, log: Path, lock: int, on_line: Callable[[str], object]
) -> None:
    """Source, configuration, kernel and modules in `work`, from wherever it stopped."""
    tree, build = _dirs(work)
    # Before anything is read: of a patch that comes in the middle, it must know nothing.
    key = kernel_key(source)
    build.mkdir(parents=True, exist_ok=True)
    (build / _STAMP).unlink(missing_ok=True)
    unpack(source, tree, log=log, lock=lock, on_line=on_line)
    place_simgpu(tree)
    on_line("configuring")
    _configure(tree, build, log, lock)
    _make(tree, build, ["bzImage", "modules"], log, lock, _counted(on_line))
    write_atomic(build / _STAMP, key.encode())


def _configure(tree: Path, build: Path, log: Path, lock: int) -> None:
    asked = kconfig.wanted()
    config = build / ".config"
    fragment = kconfig.FRAGMENT.read_text()
    # The same fragment gives the same .config; written anew it would rebuild everything
    # that reads it, so an unchanged result keeps its time (make compares times).
    before = config.read_bytes() if config.exists() else b""
    stat = config.stat() if before else None
    _make(tree, build, ["-s", "tinyconfig"], log, lock, lambda _: None)
    with open(config, "a") as file:
        file.write(fragment)
    _make(tree, build, ["-s", "olddefconfig"], log, lock, lambda _: None)
    kconfig.assert_kept(asked, kconfig.parse(config.read_text()), str(config))
    if stat is not None and config.read_bytes() == before:
        os.utime(config, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def _make(
    tree: Path,
    build: Path,
    what: list[str],
    log: Path,
    lock: int,
    on_line: Callable[[str], object],
) -> None:
    jobs = len(os.sched_getaffinity(0))
    # Who, where and when would make every build differ without a reason.
    same = {
        "KBUILD_BUILD_USER": "lab",
        "KBUILD_BUILD_HOST": "tdrlab",
        "KBUILD_BUILD_TIMESTAMP": "Thu Jan  1 00:00:00 UTC 1970",
        "KBUILD_BUILD_VERSION": "1",
    }
    run(
        ["make", "-C", tree, f"O={build}", "ARCH=x86_64", f"-j{jobs}", *what],
        log=log,
        lock=lock,
        env=same,
        on_line=on_line,
    )


def _counted(on_line: Callable[[str], object]) -> Callable[[str], object]:
    """Lines of make as people want them: how many, of about how many, and which."""
    made = 0

    def count(line: str) -> None:
        nonlocal made
        if _MADE.match(line):
            made += 1
            on_line(f"{made} of at most {_EXPECTED} objects: {line.split()[-1]}")

    return count


def _dirs(work: Path) -> tuple[Path, Path]:
    return work / "source", work / "build"
