"""One commit's kernel: patches, the config that the lab needs, what is told of the build.

The tree is a Makefile with the targets of a kernel's.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.agent.builds import note
from harness.link.built import elf_build_id
from harness.tests.elf import elf
from harness.tests.inner import ROOT
from harness.tests.unit.test_bisect_history import Repository

__all__: list[str] = []

ID = bytes(range(20))
MAKEFILE = r"""
olddefconfig:
	@grep -v DROPPED $(O)/.config > $(O)/.new; mv $(O)/.new $(O)/.config
modules: bzImage
bzImage:
	@mkdir -p $(O)/arch/x86/boot; cp driver/file $(O)/arch/x86/boot/bzImage
	@printf '%b' '@ELF@' > $(O)/vmlinux
modules_install:
	@mkdir -p $(INSTALL_MOD_PATH)/lib/modules/1
"""
PATCH = """--- a/driver/file
+++ b/driver/file
@@ -1 +1 @@
-one
+one, annotated
"""

pytestmark = pytest.mark.skipif(
    not (shutil.which("make") and (shutil.which("mke2fs") or Path("/sbin/mke2fs").exists())),
    reason="make or mke2fs is not installed",
)


@pytest.fixture
def tree(tmp_path: Path) -> Repository:
    made = Repository(tmp_path / "tree")
    escaped = "".join(f"\\{byte:04o}" for byte in elf(ID))
    (made.path / "Makefile").write_text(MAKEFILE.replace("@ELF@", escaped))
    return made


def build(tree: Repository, commit: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Into `directory`/out."""
    out = directory / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    (directory / "annotate.patch").write_text(PATCH)
    (directory / "config").write_text("CONFIG_DROPPED=y\n")
    argv = [sys.executable, "-m", "tools.kernel.commit", "kernel", "--work", directory / "work"]
    argv += ["--config", directory / "config", "--patch", directory / "annotate.patch"]
    return subprocess.run(
        list(map(str, [*argv, tree.path, commit, out])), cwd=ROOT, capture_output=True, text=True
    )


def test_a_commit_is_built_with_the_labs_patch_and_config(tree: Repository, tmp_path: Path) -> None:
    first = tree.commit("one", text="one\n")
    has_it = tree.commit("two", text="one, annotated\n")
    conflict = tree.commit("three", text="something else\n")
    done = build(tree, first, tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/bzImage").read_text() == "one, annotated\n"
    assert json.loads((tmp_path / "out/built.json").read_text()) == {
        "image": "bzImage", "modules": "modules.ext4", "builds": {"vmlinux": ID.hex()},
    }  # fmt: skip
    config = (tmp_path / "work/build/.config").read_text()
    assert "CONFIG_PROVE_LOCKING=y" in config
    assert "DROPPED" not in config
    done = build(tree, has_it, tmp_path)
    assert done.returncode == 0, "the patch is in that commit already"
    done = build(tree, conflict, tmp_path)
    assert done.returncode == 1
    assert "patch does not apply" in done.stderr


def test_only_what_changed_looks_changed_to_make(tree: Repository, tmp_path: Path) -> None:
    first = tree.commit("one", text="one\n")
    later = tree.commit("other", "other/file")
    assert build(tree, first, tmp_path).returncode == 0
    patched = tmp_path / "work/source/driver/file"
    config = tmp_path / "work/build/.config"
    for path in (patched, config):
        os.utime(path, (1000, 1000))
    assert build(tree, later, tmp_path).returncode == 0
    assert [path.stat().st_mtime for path in (patched, config)] == [1000, 1000]
    assert patched.read_text() == "one, annotated\n"


def test_a_checkout_that_was_killed_is_begun_again(tree: Repository, tmp_path: Path) -> None:
    first = tree.commit("one", text="one\n")
    assert build(tree, first, tmp_path).returncode == 0
    (tmp_path / "work/source/.git/index.lock").touch()
    again = tree.commit("other", "other/file")
    done = build(tree, again, tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_commit_that_is_not_there_is_the_labs_trouble(tree: Repository, tmp_path: Path) -> None:
    tree.commit("one", text="one\n")
    done = build(tree, "1" * 40, tmp_path)
    assert (done.returncode, "cannot be checked out" in done.stderr) == (3, True), done.stderr


def test_a_config_that_loses_what_the_lab_needs_is_no_kernel(
    tree: Repository, tmp_path: Path
) -> None:
    path = tree.path / "Makefile"
    path.write_text(path.read_text().replace("DROPPED", "PROVE_LOCKING"))
    done = build(tree, tree.commit("one", text="one\n"), tmp_path)
    assert done.returncode == 1
    assert "CONFIG_PROVE_LOCKING=y: dropped" in done.stderr


def test_a_build_that_was_starved_is_the_labs_trouble(tree: Repository, tmp_path: Path) -> None:
    path = tree.path / "Makefile"
    # Far above the last lines, as in a parallel build.
    said = "echo 'ld: a.o: No space left on device'; seq 90; exit 1"
    path.write_text(path.read_text().replace("@mkdir -p $(O)/arch", f"@{said}; mkdir -p $(O)/arch"))
    done = build(tree, tree.commit("one", text="one\n"), tmp_path)
    assert (done.returncode, "No space left" in done.stderr) == (3, True)


def test_build_ids_are_read_from_files_and_from_notes(tmp_path: Path) -> None:
    gnu = b"\4\0\0\0\24\0\0\0\3\0\0\0GNU\0" + ID
    (tmp_path / "a.ko").write_bytes(elf(ID))
    (tmp_path / "b.ko").write_bytes(b"\177ELF" + gnu)
    assert elf_build_id(tmp_path / "a.ko") == ID.hex()
    assert elf_build_id(tmp_path / "b.ko") == ""
    # As /sys/kernel/notes has them: another one first, its name and words padded to four bytes.
    other = b"\6\0\0\0\1\0\0\0\1\0\0\0Linux\0\0\0x\0\0\0"
    assert note(other + gnu) == ID.hex()
    assert note(other) is None
    assert note(b"\1\2") is None
