"""The kernel's configuration and source: every symbol asserted, other kernels refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import LabError, UsageError
from tools.kernel import build, kconfig, source

DOT_CONFIG = """
# Automatically generated file; DO NOT EDIT.
CONFIG_DRM=y
CONFIG_DRM_I915=m
# CONFIG_LIMA is not set
CONFIG_NR_CPUS=8
CONFIG_LOCALVERSION="-lab"
"""


def _tree(path: Path, version: str) -> Path:
    path.mkdir()
    major, patchlevel, sublevel = version.split(".")
    (path / "Makefile").write_text(
        f"# SPDX\nVERSION = {major}\nPATCHLEVEL = {patchlevel}\nSUBLEVEL = {sublevel}\n"
    )
    return path


def test_parse_reads_every_kind_of_line() -> None:
    assert kconfig.parse(DOT_CONFIG) == {
        "CONFIG_DRM": "y",
        "CONFIG_DRM_I915": "m",
        "CONFIG_LIMA": "n",
        "CONFIG_NR_CPUS": "8",
        "CONFIG_LOCALVERSION": '"-lab"',
    }


def test_kept_symbols_pass_and_n_may_be_absent() -> None:
    asked = {"CONFIG_DRM": "y", "CONFIG_LOCALVERSION": '"-lab"', "CONFIG_NOWHERE": "n"}
    kconfig.assert_kept(asked, kconfig.parse(DOT_CONFIG), "here")


def test_every_lost_symbol_is_named_with_what_it_is_now() -> None:
    asked = {"CONFIG_DRM": "m", "CONFIG_LIMA": "m", "CONFIG_GONE": "y", "CONFIG_NR_CPUS": "8"}
    with pytest.raises(LabError) as caught:
        kconfig.assert_kept(asked, kconfig.parse(DOT_CONFIG), "here/.config")
    message = str(caught.value)
    assert "3 of 4" in message
    assert "CONFIG_DRM=m: is y" in message
    assert "CONFIG_LIMA=m: is n" in message
    assert "CONFIG_GONE=y: dropped" in message
    assert "NR_CPUS" not in message
    assert "here/.config" in message


def test_our_fragment_asks_for_the_judge_and_the_subject() -> None:
    asked = kconfig.wanted()
    for name in ("PROVE_LOCKING", "DEBUG_ATOMIC_SLEEP", "DETECT_HUNG_TASK", "MMU_NOTIFIER", "DRM"):
        assert asked[f"CONFIG_{name}"] == "y"
    for name in ("DRM_SCHED", "DRM_SIMGPU", "DRM_I915"):
        assert asked[f"CONFIG_{name}"] == "m"
    assert int(asked["CONFIG_LOCKDEP_BITS"]) > 15


@pytest.mark.parametrize("line", ["CONFIG_A", "# fine\nCONFIG_A=y\nCONFIG_A=m", "A=y"])
def test_a_bad_fragment_names_its_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "config"
    path.write_text(f"{line}\n")
    with pytest.raises(UsageError, match=f"{path}:{line.count(chr(10)) + 1}"):
        kconfig.wanted(path)


def test_another_kernel_version_is_refused(tmp_path: Path) -> None:
    tree = _tree(tmp_path / "linux", "6.17.3")
    with pytest.raises(UsageError, match=r"is Linux 6\.17\.3; simgpu .* for 6\.12"):
        source.source(tree)


def test_a_directory_that_is_no_kernel_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no kernel tree"):
        source.source(tmp_path)
    (tmp_path / "Makefile").write_text("all:\n")
    with pytest.raises(UsageError, match="names no version"):
        source.source(tmp_path)


def test_a_users_tree_is_known_by_its_files_not_its_git(tmp_path: Path) -> None:
    tree = _tree(tmp_path / "linux", "6.12.5")
    first = source.source(tree)
    assert "6.12.5" in first.version
    (tree / ".git").mkdir()
    (tree / ".git" / "index").write_text("x")
    assert source.source(tree) == first
    (tree / "main.c").write_text("x")
    assert source.source(tree).key != first.key


def test_a_changed_driver_changes_the_modules_not_the_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simgpu = tmp_path / "simgpu"
    simgpu.mkdir()
    for name in ("Kconfig", "Makefile", "sim.c"):
        (simgpu / name).write_text(name)
    for user in (source, build):
        monkeypatch.setattr(user, "SIMGPU", simgpu)
    chosen = source.Source(tmp_path, "test", "key")
    kernel, module = build.kernel_key(chosen), build.module_key(chosen)
    (simgpu / "sim.c").write_text("changed")
    (simgpu / "notes.o").write_text("not a source")
    assert build.kernel_key(chosen) == kernel
    assert build.module_key(chosen) != module
    (simgpu / "Kconfig").write_text("changed")
    assert build.kernel_key(chosen) != kernel


def test_simgpu_is_placed_file_by_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    simgpu, tree = tmp_path / "simgpu", tmp_path / "tree"
    simgpu.mkdir()
    there = tree / "drivers/gpu/drm/simgpu"
    there.mkdir(parents=True)
    monkeypatch.setattr(source, "SIMGPU", simgpu)
    (simgpu / "a.c").write_text("a")
    (simgpu / "b.h").write_text("b")
    assert source.place_simgpu(tree)
    before = (there / "a.c").stat().st_mtime_ns
    assert not source.place_simgpu(tree)
    (simgpu / "b.h").unlink()
    (simgpu / "c.c").write_text("c")
    assert source.place_simgpu(tree)
    assert sorted(path.name for path in there.iterdir()) == ["a.c", "c.c"]
    assert (there / "a.c").stat().st_mtime_ns == before, "make would rebuild it for nothing"


def test_patches_apply_in_order_and_say_what_they_touch() -> None:
    names = [path.name for path in source.patches()]
    assert names == sorted(names)
    assert any("annotate" in name for name in names)
    for path in source.patches():
        assert "\n--- a/" in path.read_text()
