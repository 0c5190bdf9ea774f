"""One commit's kernel, or only its modules, for a bisect: `... TREE COMMIT OUT`.

Both keep a work directory, so that the next commit costs what differs.  Exit status 3: the lab is
at fault; 1: that commit has no kernel.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import click
import msgspec

from harness.bisect.kernels import trouble_in
from harness.errors import HarnessError, LabError, UsageError
from harness.link.built import elf_build_id
from harness.link.virtual import load_manifest
from tools.image.build import pack_modules
from tools.kernel import kconfig
from tools.setup.cache import write_atomic
from tools.setup.command import run

__all__ = ["main"]

# A file that a patch changes.
_CHANGED = re.compile(r"^\+\+\+ b/(\S+)", re.M)
# Who, where and when would make every build differ without a reason.
_SAME = {
    "KBUILD_BUILD_USER": "lab",
    "KBUILD_BUILD_HOST": "tdrlab",
    "KBUILD_BUILD_TIMESTAMP": "Thu Jan  1 00:00:00 UTC 1970",
    "KBUILD_BUILD_VERSION": "1",
}
# Of tools/kernel/config, what a kernel under test cannot do without; the rest is its own config's.
_NEEDED = (
    "CONFIG_PROVE_LOCKING",
    "CONFIG_DEBUG_ATOMIC_SLEEP",
    "CONFIG_DETECT_HUNG_TASK",
    "CONFIG_DEBUG_FS",
    "CONFIG_FTRACE",
    "CONFIG_KPROBES",
    "CONFIG_KPROBE_EVENTS",
    "CONFIG_IKCONFIG",
    "CONFIG_IKCONFIG_PROC",
    "CONFIG_ALLOW_DEV_COREDUMP",
    "CONFIG_LOCALVERSION_AUTO",
)


class Absent(LabError):
    """What every commit needs is not there; a tool that fails is that commit's fault."""


_WORK = click.option(
    "--work", type=click.Path(path_type=Path, file_okay=False), required=True,
    help="Kept between commits; one build at a time.",
)  # fmt: skip
_PLACES = [
    click.argument("tree", type=click.Path(path_type=Path, exists=True, resolve_path=True)),
    click.argument("commit"),
    click.argument("out", type=click.Path(path_type=Path, exists=True, resolve_path=True)),
]


@click.group()
def main() -> None:
    """Build one commit."""


@main.command()
@_WORK
@click.option("--folder", required=True, help="Of the tree: where the module's Makefile is.")
@click.option("--module", required=True, help="Its place below kernel/ in /lib/modules, no .ko.")
@click.option(
    "--build-tree", type=click.Path(path_type=Path, exists=True, resolve_path=True),
    help="A built kernel's O= directory, only read (default: the one set-up keeps).",
)  # fmt: skip
@click.option("--of", "key", default="", help="The kernel that they are for: its product's name.")
@_PLACES[0]
@_PLACES[1]
@_PLACES[2]
def modules(
    work: Path, folder: str, module: str, build_tree: Path | None, key: str,
    tree: Path, commit: str, out: Path,
) -> None:  # fmt: skip
    """Only one module, in an image of the virtual target's modules."""
    made = load_manifest()
    kernel = Path(made.kernel).parent
    build = build_tree or kernel.parent.parent / "work/kernel/build"
    stamp = build / ".tdrlab-kernel"
    of = stamp.read_text() if stamp.exists() else ""
    if not build_tree and not (of.startswith(kernel.name) and kernel.name.startswith(key)):
        raise Absent(
            f"the build directory is of kernel {of[:16] or '(none)'}, set-up's is {kernel.name}"
            f"{f', and {key} is wanted' if key else ''}",
            where=str(build),
            cure="./tools/lab setup, then begin a new bisect",
        )
    with _locked(work) as lock:
        log = work / "build.log"
        log.write_bytes(b"")
        source = work / "module"
        _place(_files(tree, commit, folder), source)
        jobs = f"-j{len(os.sched_getaffinity(0))}"
        words: list[str | Path] = ["make", "-C", build, f"M={source}", jobs, *_ccache(), "modules"]
        run(words, log=log, lock=lock, env=_SAME)
        name = Path(module).name
        stripped = out / f"{name}.ko"
        shutil.copyfile(source / f"{name}.ko", stripped)
        run(["strip", "--strip-debug", stripped], log=log, lock=lock)
        files = out / "modules"
        shutil.copytree(Path(made.modules).parent / "lib/modules", files, symlinks=True)
        (there,) = files.glob(f"*/kernel/{module}.ko")
        shutil.copyfile(stripped, there)
        pack_modules(files, out / "modules.ext4", log=log, lock=lock)
        shutil.rmtree(files)
        _built(out, modules="modules.ext4", builds={name: elf_build_id(stripped)})


@main.command()
@_WORK
@click.option(
    "--config", type=click.Path(path_type=Path, exists=True, dir_okay=False), required=True,
    help="The .config to start from.",
)  # fmt: skip
@click.option(
    "--patch", "patches", multiple=True, type=click.Path(path_type=Path, exists=True),
    help="Applied to each commit that does not have it yet; one that does not apply ends it.",
)  # fmt: skip
@_PLACES[0]
@_PLACES[1]
@_PLACES[2]
def kernel(
    work: Path, config: Path, patches: tuple[Path, ...], tree: Path, commit: str, out: Path
) -> None:
    """Kernel and modules, out of tree, with what the lab needs in its config."""
    with _locked(work) as lock:
        log = work / "build.log"
        log.write_bytes(b"")
        source, build = work / "source", work / "build"
        build.mkdir(exist_ok=True)
        with _kept_times(source, patches):
            _checkout(tree, commit, source, log, lock)
            for patch in patches:
                _apply(source, patch.resolve(), log, lock)
        make: list[str | Path] = ["make", "-C", source, f"O={build}"]
        make += [f"-j{len(os.sched_getaffinity(0))}", *_ccache()]
        _configure(make, build / ".config", config, log, lock)
        run([*make, "bzImage", "modules"], log=log, lock=lock, env=_SAME)
        install = [f"INSTALL_MOD_PATH={out}", "INSTALL_MOD_STRIP=1"]
        run([*make, *install, "modules_install"], log=log, lock=lock, env=_SAME)
        shutil.copyfile(build / "arch/x86/boot/bzImage", out / "bzImage")
        for link in ("build", "source"):
            for path in out.glob(f"lib/modules/*/{link}"):
                path.unlink()
        pack_modules(out / "lib/modules", out / "modules.ext4", log=log, lock=lock)
        _built(
            out,
            image="bzImage",
            modules="modules.ext4",
            builds={"vmlinux": elf_build_id(build / "vmlinux")},
        )


def _built(out: Path, **what: object) -> None:
    write_atomic(out / "built.json", msgspec.json.encode(what))


def _files(tree: Path, commit: str, folder: str) -> dict[str, bytes]:
    """The files of a folder as that commit has them."""
    words = ["git", "-C", str(tree), "archive", "--format=tar", f"{commit}:{folder}"]
    done = subprocess.run(words, capture_output=True)
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()
        raise UsageError(f"has no {folder}: {said}", where=commit)
    with tarfile.open(fileobj=BytesIO(done.stdout)) as archive:
        members = [member for member in archive.getmembers() if member.isfile()]
        opened = {member.name: archive.extractfile(member) for member in members}
        return {name: file.read() for name, file in opened.items() if file is not None}


def _place(files: dict[str, bytes], there: Path) -> None:
    """Make the sources in `there` these; what does not differ keeps its time, so that make
    compiles only what changed."""
    there.mkdir(exist_ok=True)
    for path in there.rglob("*"):
        source = path.suffix in (".c", ".h") and not path.name.endswith(".mod.c")
        if source and str(path.relative_to(there)) not in files:
            path.unlink()
    for name, data in files.items():
        path = there / name
        if not path.exists() or path.read_bytes() != data:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def _checkout(tree: Path, commit: str, source: Path, log: Path, lock: int) -> None:
    """The commit's files in `source`, those that are as before untouched; what fails of it is no
    commit's fault."""
    git: list[str | Path] = ["git", "-C", source]
    try:
        if not (source / ".git").exists():
            # A clone that was killed has none, or no HEAD.
            shutil.rmtree(source, ignore_errors=True)
            part = source.with_name("source.part")
            shutil.rmtree(part, ignore_errors=True)
            clone: list[str | Path] = ["git", "clone", "-q", "--shared", "--no-checkout"]
            run([*clone, tree, part], log=log, lock=lock)
            part.rename(source)
        # Left by one that was killed: whoever has our lock is alone.
        (source / ".git/index.lock").unlink(missing_ok=True)
        run([*git, "fetch", "--quiet", tree, commit], log=log, lock=lock)
        run([*git, "checkout", "--quiet", "-f", "--detach", commit], log=log, lock=lock)
        run([*git, "clean", "-fdxq"], log=log, lock=lock)
    except LabError as error:
        raise Absent(
            f"the commit cannot be checked out: {error.what}", where=str(log),
            cure="is it in the tree?  See the log",
        ) from error  # fmt: skip


@contextmanager
def _kept_times(source: Path, patches: tuple[Path, ...]) -> Iterator[None]:
    """What the patches change is written twice at each commit; where it comes out as it was, it
    keeps its time, so that make compiles only what changed."""
    names = {name for patch in patches for name in _CHANGED.findall(patch.read_text())}
    paths = [source / name for name in names if (source / name).is_file()]
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}
    yield
    for path, (data, time) in before.items():
        if path.is_file() and path.read_bytes() == data:
            os.utime(path, ns=(time, time))


def _apply(source: Path, patch: Path, log: Path, lock: int) -> None:
    has = ["git", "-C", str(source), "apply", "--reverse", "--check", str(patch)]
    if subprocess.run(has, capture_output=True).returncode != 0:
        run(["git", "-C", source, "apply", patch], log=log, lock=lock)


def _configure(make: list[str | Path], there: Path, config: Path, log: Path, lock: int) -> None:
    asked = kconfig.wanted()
    needed = {name: asked[name] for name in _NEEDED if name in asked}
    lines = [
        f"{name}={value}" if value != "n" else f"# {name} is not set"
        for name, value in needed.items()
    ]
    before = there.read_bytes() if there.exists() else b""
    stat = there.stat() if before else None
    there.write_text(config.read_text() + "\n" + "\n".join(lines) + "\n")
    run([*make, "-s", "olddefconfig"], log=log, lock=lock, env=_SAME)
    kconfig.assert_kept(needed, kconfig.parse(there.read_text()), str(there))
    if stat is not None and there.read_bytes() == before:
        os.utime(there, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def _ccache() -> list[str]:
    return ["CC=ccache gcc"] if shutil.which("ccache") else []


@contextmanager
def _locked(work: Path) -> Iterator[int]:
    """The work directory to ourselves; its lock is inherited by what we start."""
    try:
        work.mkdir(parents=True, exist_ok=True)
        fd = os.open(work / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Absent(
            f"cannot use the work directory: {error.strerror}", where=str(work),
            cure="give another --work",
        ) from error  # fmt: skip
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield fd
    finally:
        os.close(fd)


def _short(error: HarnessError) -> bool:
    """Whether it failed for want of disk or memory; what tells that may stand far up in the log."""
    trouble = trouble_in(str(error.what))
    log = Path(error.where)
    if not trouble and log.name == "build.log":
        trouble = trouble_in(log.read_text(errors="replace"))
        if trouble:
            print(f"lab: {trouble}", file=sys.stderr)
    return bool(trouble)


def _status() -> int:
    try:
        main(standalone_mode=False)
    except OSError as error:  # the disk: of no commit's making
        print(f"lab: {error}", file=sys.stderr)
        return LabError.exit_status
    except Absent as error:
        print(error, file=sys.stderr)
        return LabError.exit_status
    except HarnessError as error:
        print(error, file=sys.stderr)
        return LabError.exit_status if _short(error) else 1
    except click.ClickException as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_status())
