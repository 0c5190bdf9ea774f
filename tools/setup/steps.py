"""The steps of set-up, in order, each skipped while what it is made of is unchanged.

packages, keys, kernel, module, rootfs, image; at the end the manifest that
harness.link.virtual reads.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import msgspec

from harness.errors import LabError
from harness.link.virtual import Manifest, Patch, manifest_path
from tools.image import build as image
from tools.kernel import build as kernel
from tools.kernel.source import SIMGPU, Source, patches, simgpu_files, source
from tools.setup import packages
from tools.setup.cache import Cache, digest_files, write_atomic
from tools.setup.keys import Keys, ensure_keys
from tools.setup.progress import Report, Task

__all__ = ["Setup"]

# Fills a directory, given it, the log, the lock and whom to tell of progress.
Make = Callable[[Path, Path, int, Callable[[str], None]], None]


class Setup:
    """One run of set-up."""

    def __init__(self, cache: Cache, report: Report, tree: Path | None) -> None:
        """`tree`: the user's kernel source; None for Debian's."""
        self.cache = cache
        self.report = report
        self.tree = tree
        self.did: list[str] = []
        """Names of the steps that had something to do."""

    def packages(self, needs: tuple[packages.Need, ...]) -> None:
        """System packages.  Raises UsageError with the one command where we may not install."""
        if not packages.missing(needs):
            return
        with self._step("packages", "installing what is missing") as (task, lock, log):
            absent = packages.missing(needs)
            if not absent:
                return
            task.note("missing: " + " ".join(absent))
            packages.install(absent, log=log, lock=lock, on_line=task.detail)
            if absent := packages.missing(needs):
                raise LabError(
                    f"installed, yet still not found: {' '.join(absent)}",
                    where=str(log),
                    cure="see the log; is another version of them on PATH?",
                )

    def all(self) -> Manifest:
        """Every step; returns the manifest, which is written when all is there."""
        self.packages(packages.NEEDS + (() if os.geteuid() == 0 else packages.ROOTLESS))
        chosen = source(self.tree)
        keys = self._keys()
        work = self.cache.root / "work" / ("kernel" if self.tree is None else "kernel-own")
        built = self._product(
            "kernel",
            lambda: kernel.kernel_key(chosen),
            "building the lockdep kernel (10 minutes on two cores)",
            lambda out, log, lock, on_line: kernel.build_kernel(
                chosen, work, out, log=log, lock=lock, on_line=on_line
            ),
        )
        modules = self._product(
            "module",
            lambda: kernel.module_key(chosen),
            "building the modules",
            lambda out, log, lock, on_line: self._modules(chosen, work, out, log, lock, on_line),
        )
        rootfs = self._product(
            "rootfs",
            image.rootfs_key,
            "fetching a Debian userland",
            lambda out, log, lock, on_line: image.build_rootfs(
                out, log=log, lock=lock, on_line=on_line
            ),
        )
        root = self._product(
            "image",
            lambda: image.root_key(keys.client, keys.host),
            "packing the root file system",
            lambda out, log, lock, on_line: image.build_root(
                rootfs, keys.directory, out, log=log, lock=lock, on_line=on_line
            ),
        )
        manifest = Manifest(
            kernel=str(built / "bzImage"),
            vmlinux=str(built / "vmlinux"),
            root=str(root / "root.ext4"),
            modules=str(modules / "modules.ext4"),
            release=(built / "release").read_text().strip(),
            source=chosen.version,
            config_hash=sha256((built / "config").read_bytes()).hexdigest(),
            patches=tuple(Patch(p.name, sha256(p.read_bytes()).hexdigest()) for p in patches()),
            module_hash=digest_files(SIMGPU, simgpu_files()),
            key=str(keys.private),
            host_key=keys.host,
        )
        data = msgspec.json.format(msgspec.json.encode(manifest)) + b"\n"
        path = manifest_path()
        if not path.exists() or path.read_bytes() != data:
            write_atomic(path, data)
        return manifest

    def _modules(
        self,
        chosen: Source,
        work: Path,
        out: Path,
        log: Path,
        lock: int,
        on_line: Callable[[str], None],
    ) -> None:
        # The build directory belongs to the kernel's step: one user of it at a time.
        with self.cache.lock("kernel", lambda who: on_line(f"waiting for {who}")) as inner:
            kernel.build_modules(chosen, work, out, log=log, lock=inner, on_line=on_line)
        image.pack_modules(out / "lib/modules", out / "modules.ext4", log=log, lock=lock)

    @contextmanager
    def _step(self, name: str, what: str) -> Iterator[tuple[Task, int, Path]]:
        """Show the step and hold its lock while the block runs."""
        self.did.append(name)
        with (
            self.report.task(name, what) as task,
            self.cache.lock(name, lambda who: task.note(f"waiting for {who}")) as lock,
        ):
            yield task, lock, self.cache.log(name)

    def _keys(self) -> Keys:
        directory = self.cache.root / "keys"
        log = self.cache.log("keys")
        with self.cache.lock(
            "keys", lambda who: self.report.line("keys", f"waiting for {who}")
        ) as fd:
            return ensure_keys(directory, log=log, lock=fd)

    def _product(self, step: str, key_now: Callable[[], str], what: str, make: Make) -> Path:
        """The step's product for the key, made if it is not there.

        Raises LabError when the key is another one after the making: somebody edited
        what it is made of, so nobody knows what is in it.
        """
        key = key_now()
        done = self.cache.product(step, key)
        if not done.exists():
            with self._step(step, what) as (task, lock, log):
                if not done.exists():  # another set-up may have made it while we waited
                    with self.cache.making(step, key) as part:
                        make(part, log, lock, task.detail)
                        if key_now() != key:
                            raise LabError(
                                "its sources were changed while it was built",
                                where=step,
                                cure="run it again",
                            )
                for gone in self.cache.prune(step, done):
                    task.note(f"removed {gone}, not used for two days")
        self.cache.used(done)
        return done
