"""A module with patches of ours in it, and a modules image that has it.

Only the files that a patch changes are compiled, by the commands that Kbuild wrote down
when set-up built the kernel; all else is linked from the objects that lie there.
"""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import msgspec

from harness.errors import LabError
from harness.link.virtual import Manifest, cache_root, load_manifest
from tools.image.build import pack_modules
from tools.setup.cache import Cache, digest, write_atomic
from tools.setup.command import run

__all__ = ["PATCHES", "absent", "install", "variant"]

PATCHES = Path(__file__).parent

# Raise it when this file changes what comes out.
_RECIPE = "1"
_CHANGED = re.compile(r"^\+\+\+ b/(\S+)", re.M)
_COMMAND = re.compile(r"^savedcmd_\S+ := (.*)$", re.M)


def absent() -> str:
    """Why no variant can be built here, or "": a cache may keep a kernel without its build."""
    kernel = Path(load_manifest().kernel).parent
    stamp = kernel.parent.parent / "work/kernel/build/.tdrlab-kernel"
    if stamp.exists() and stamp.read_text().startswith(kernel.name):
        return ""
    return f"set-up's build directory is gone, or another kernel's: {stamp.parent}"


def variant(module: str, patches: list[str]) -> Manifest:
    """The manifest of a virtual target whose `module` ("drivers/gpu/drm/i915/i915") has `patches`.

    Made once for each content.  Raises LabError where set-up's build directory is gone or of
    another kernel, where a patch does not apply, or what it makes does not compile.
    """
    made = load_manifest()
    kernel = Path(made.kernel).parent
    # Where set-up builds Debian's kernel, beside the product; see tools/setup/steps.py.
    work = Cache(kernel.parent.parent)
    texts = [(PATCHES / name).read_bytes() for name in patches]
    key = digest(_RECIPE, kernel.name, Path(made.modules).parent.name, module, *texts)
    cache = Cache(cache_root())
    done = cache.product("broken", key)
    log = cache.log("broken")
    with cache.lock("broken", print) as lock:
        if not done.exists():
            # Nobody may build in it meanwhile.
            with work.lock("kernel", print), cache.making("broken", key) as part:
                log.write_bytes(b"")
                tree = _Tree(work.root / "work/kernel", part / "build", log, lock)
                tree.check(kernel.name)
                built = tree.module(module, [PATCHES / name for name in patches])
                _pack(Path(made.modules).parent, built, module, part, log, lock)
                shutil.rmtree(part / "build")
        cache.used(done)
    return msgspec.structs.replace(made, modules=str(done / "modules.ext4"))


def install(manifest: Manifest, home: Path) -> None:
    """Make `home` an $XDG_CACHE_HOME whose virtual targets run `manifest`."""
    data = msgspec.json.format(msgspec.json.encode(manifest)) + b"\n"
    write_atomic(home / "tdrlab/virtual.json", data)


class _Tree:
    """Set-up's kernel tree, which is read; what is made goes to `out`."""

    def __init__(self, work: Path, out: Path, log: Path, lock: int) -> None:
        self.source, self.build = work / "source", work / "build"
        self.out = out
        self._log, self._lock = log, lock

    def check(self, key: str) -> None:
        """Raises LabError unless the kernel with `key` was the last to be built in it."""
        stamp = self.build / ".tdrlab-kernel"
        if not stamp.exists() or not stamp.read_text().startswith(key):
            raise LabError(
                "the kernel's build directory is gone, or another kernel's",
                where=str(self.build),
                cure="remove the kernel's product there and run ./tools/lab setup",
            )

    def module(self, name: str, patches: list[Path]) -> Path:
        """The module called `name`, stripped of what only a debugger wants."""
        fresh = {file.replace(".c", ".o"): self._compile(file) for file in self._patched(patches)}
        parts = (self.build / f"{name}.mod").read_text().split()
        assert set(fresh) <= set(parts), f"not of {name}: {sorted(set(fresh) - set(parts))}"
        linked, listed, final = (self.out / f"{name}.{end}" for end in ("o", "list", "ko"))
        listed.parent.mkdir(parents=True, exist_ok=True)
        listed.write_text("\n".join(str(fresh.get(part, part)) for part in parts))
        (words,) = self._command(f"{name}.o")
        self._run(_instead(words, {f"@{name}.mod": f"@{listed}"}), linked)
        (words,) = self._command(f"{name}.ko")
        self._run(_instead(words, {f"{name}.o": str(linked)}), final)
        run(["strip", "--strip-debug", final], log=self._log, lock=self._lock)
        return final

    def _patched(self, patches: list[Path]) -> list[str]:
        """Lay the files that `patches` change into `out`, and change them."""
        files = sorted({name for patch in patches for name in _CHANGED.findall(patch.read_text())})
        assert all(name.endswith(".c") for name in files), f"only .c is compiled anew: {files}"
        for name in files:
            copy = self.out / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.source / name, copy)
        for patch in patches:
            run(
                ["patch", "-d", self.out, "-p1", "--forward", "--fuzz=0", "-i", patch],
                log=self._log,
                lock=self._lock,
                cure="the kernel changed: rebase the patch",
            )
        return files

    def _compile(self, name: str) -> Path:
        """The object of the patched file `name`."""
        made = (self.out / name).with_suffix(".o")
        old = name.replace(".c", ".o")
        compiler, checker = self._command(old)
        # What it includes by a name without a path stands beside the original.
        beside = ["-iquote", str((self.source / name).parent)]
        prefix = [f"-fmacro-prefix-map={self.out}/="]
        depends = next(word for word in compiler if word.startswith("-Wp,-MMD,"))
        changes = {
            str(self.source / name): str(self.out / name),
            depends: f"-Wp,-MMD,{made.with_suffix('.d')}",
        }
        self._run([*_instead(compiler, changes), *beside, *prefix], made)
        self._run(_instead(checker, {old: str(made)}), None)
        return made

    def _command(self, made: str) -> list[list[str]]:
        """The words of the commands by which Kbuild made `made`."""
        path = self.build / made
        text = (path.parent / f".{path.name}.cmd").read_text()
        match = _COMMAND.search(text)
        assert match, path
        assert "$" not in match[1], f"make's own quoting is not undone here: {path}"
        words = shlex.split(match[1].replace(";", " ; "))
        commands: list[list[str]] = [[]]
        for word in words:
            if word == ";":
                commands.append([])
            else:
                commands[-1].append(word)
        return commands

    def _run(self, words: list[str], made: Path | None) -> None:
        """One command of Kbuild's, its product put to `made`."""
        if made is not None:
            at = words.index("-o") + 1
            words = [*words[:at], str(made), *words[at + 1 :]]
        run(words, log=self._log, lock=self._lock, cwd=self.build)


def _instead(words: list[str], changes: dict[str, str]) -> list[str]:
    """`words` with some replaced; each must be there, or the build directory gets written."""
    missing = set(changes) - set(words)
    assert not missing, f"not in the command: {missing}"
    return [changes.get(word, word) for word in words]


def _pack(product: Path, built: Path, module: str, out: Path, log: Path, lock: int) -> None:
    """modules.ext4 in `out`: those of `product` with one replaced."""
    tree = out / "modules"
    shutil.copytree(product / "lib/modules", tree, symlinks=True)
    (there,) = tree.glob(f"*/kernel/{module}.ko")
    shutil.copyfile(built, there)
    pack_modules(tree, out / "modules.ext4", log=log, lock=lock)
    shutil.rmtree(tree)
