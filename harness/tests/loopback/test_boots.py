"""Boot strategies on a "target" that is this host behind a real sshd, below a folder of the test's.

GRUB's own tools do what they do there; what looks at disks and firmware, which a test
cannot have, is stood in for by one that answers as a usual machine's would.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from harness import ways
from harness.deadline import Deadline
from harness.errors import TargetError, UsageError
from harness.inventory import Target
from harness.link.boot import Kernel, Staged
from harness.link.boot_files import identity
from harness.link.boot_grub import GrubBoot
from harness.link.boot_pxe import PxeBoot
from harness.link.boot_systemd import SystemdBoot
from harness.link.boots import boot_for
from harness.link.ssh import Ssh
from harness.tests.loopback.sshd import Sshd, why_not

PATIENCE_S = 60.0
GRUB_CFG = 'if [ "${next_entry}" ]; then set default="${next_entry}"; fi\nsource custom.cfg\n'


def _soon() -> Deadline:
    return Deadline(PATIENCE_S)


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stand-ins: grub-probe tells what the files beside it say, bootctl keeps what it is told."""
    folder = tmp_path_factory.mktemp("tools")
    (folder / "abstraction").write_text("\n")
    (folder / "fs").write_text("ext2\n")
    scripts = {
        "grub-probe": f'cat "{folder}/${{1#--target=}}"',
        # As where /boot is a partition of its own.
        "grub-mkrelpath": 'echo "${1#*/boot}"',
        "bootctl": (
            f'[ "$1" = set-oneshot ] && echo "$2" > {folder}/oneshot;'
            f' [ "$1" = --print-esp-path ] && cat {folder}/esp; exit 0'
        ),
    }
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def link(tools: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ssh]:
    if reason := why_not():
        pytest.skip(reason)
    if os.geteuid() != 0:
        pytest.skip("a boot loader's files are root's, and sudo would not see the stand-ins")
    folder = tmp_path_factory.mktemp("boots")
    path = f"{tools}:/usr/sbin:/usr/bin:/sbin:/bin"
    server = Sshd(folder, SetEnv=f"HOME={folder} PATH={path}").start()
    try:
        with Ssh.connect(server.endpoint(), Deadline(PATIENCE_S)) as ssh:
            yield ssh
    finally:
        server.stop()


def _kernel(folder: Path, release: str = "6.12.0-lab", words: str = "panic=10") -> Kernel:
    """What a build leaves."""
    folder.mkdir(parents=True, exist_ok=True)
    modules = folder / "modules"
    (modules / "kernel").mkdir(parents=True, exist_ok=True)
    (modules / "kernel" / "amdgpu.ko").write_bytes(b"\x7fELF")
    (modules / "modules.dep").write_text("kernel/amdgpu.ko:\n")
    if not (modules / "build").is_symlink():
        (modules / "build").symlink_to("/nowhere")
    (folder / "bzImage").write_bytes(b"MZ" + os.urandom(4096))
    (folder / "initrd").write_bytes(b"070701")
    return Kernel(
        image=folder / "bzImage",
        release=release,
        build_id="ab" * 20,
        modules=modules,
        initramfs=folder / "initrd",
        cmdline=words,
    )


@pytest.fixture
def grub(tmp_path: Path) -> ways.GrubBoot:
    for name in ("grub-editenv", "grub-script-check"):
        if shutil.which(name) is None:
            pytest.skip(f"no {name} here: apt-get install grub-common")
    (tmp_path / "boot" / "grub").mkdir(parents=True)
    (tmp_path / "boot" / "grub" / "grub.cfg").write_text(GRUB_CFG)
    subprocess.run(
        ["grub-editenv", str(tmp_path / "boot" / "grub" / "grubenv"), "create"], check=True
    )
    return ways.GrubBoot(
        boot=str(tmp_path / "boot"),
        grub=str(tmp_path / "boot" / "grub"),
        modules=str(tmp_path / "lib" / "modules"),
    )


def _environment(spec: ways.GrubBoot) -> str:
    argv = ["grub-editenv", f"{spec.grub}/grubenv", "list"]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def _custom(spec: ways.GrubBoot) -> str:
    """Our entries, which GRUB's own parser takes."""
    path = Path(spec.grub, "custom.cfg")
    subprocess.run(["grub-script-check", str(path)], check=True)
    return path.read_text()


def test_grub_takes_it_once(link: Ssh, grub: ways.GrubBoot, tmp_path: Path) -> None:
    keepers = "menuentry 'the keeper'\\''s own' {\n\ttrue\n}\n"
    Path(grub.grub, "custom.cfg").write_text(keepers)
    kernel = _kernel(tmp_path / "build", words="panic=10 amdgpu.lockup_timeout=2000,2000 a=$b")
    boot = GrubBoot(link, grub)
    staged = boot.install(kernel, _soon())
    text = _custom(grub)
    assert text.startswith(keepers)
    assert f"\tlinux /tdrlab-{staged.id}/vmlinuz " in text
    assert f" tdrlab={staged.id} panic=10 amdgpu.lockup_timeout=2000,2000 'a=$b'\n" in text
    assert f"\tinitrd /tdrlab-{staged.id}/initrd.img\n" in text
    assert _environment(grub) == "", "nothing is booted that nobody asked for"
    image = Path(grub.boot, f"tdrlab-{staged.id}", "vmlinuz")
    assert image.read_bytes() == kernel.image.read_bytes()
    modules = Path(grub.modules, kernel.release)
    assert (modules / "kernel" / "amdgpu.ko").exists()
    assert not (modules / "build").exists()

    boot.once(staged, _soon())
    assert _environment(grub) == f"next_entry=tdrlab-{staged.id}\n"
    boot.home(_soon())
    assert _environment(grub) == ""
    assert boot.install(kernel, _soon()) == staged
    assert _custom(grub) == text, "again is nothing"


def test_old_kernels_go_but_nobody_elses(link: Ssh, grub: ways.GrubBoot, tmp_path: Path) -> None:
    boot = GrubBoot(link, grub)
    Path(grub.boot, "vmlinuz-6.1").write_text("the distribution's")
    Path(grub.modules, "6.1").mkdir(parents=True)
    staged: list[Staged] = []
    for number in range(3):
        kernel = _kernel(tmp_path / f"build{number}", release=f"6.12.{number}-lab")
        staged.append(boot.install(kernel, _soon()))
        # ls -t sorts by time; two of a moment have no order.
        os.utime(Path(grub.boot, f"tdrlab-{staged[-1].id}"), (number, number))
    assert boot.prune(1, _soon()) == [staged[1].id, staged[0].id]
    text = _custom(grub)
    for number, one in enumerate(staged):
        stays = number >= 2
        assert Path(grub.boot, f"tdrlab-{one.id}").exists() == stays
        assert Path(grub.modules, one.kernel.release).exists() == stays
        assert (f"--id tdrlab-{one.id} " in text) == stays
    assert Path(grub.boot, "vmlinuz-6.1").exists()
    assert Path(grub.modules, "6.1").exists()


def test_modules_of_a_foreign_kernel_are_never_replaced(
    link: Ssh, grub: ways.GrubBoot, tmp_path: Path
) -> None:
    kernel = _kernel(tmp_path / "build")
    Path(grub.modules, kernel.release).mkdir(parents=True)
    with pytest.raises(UsageError, match="not ours") as caught:
        GrubBoot(link, grub).install(kernel, _soon())
    assert "CONFIG_LOCALVERSION" in caught.value.cure
    assert list(Path(grub.modules, kernel.release).iterdir()) == []


def test_the_same_release_built_anew_replaces_its_modules(
    link: Ssh, grub: ways.GrubBoot, tmp_path: Path
) -> None:
    boot = GrubBoot(link, grub)
    boot.install(_kernel(tmp_path / "one"), _soon())
    second = _kernel(tmp_path / "two")
    assert second.modules is not None
    (second.modules / "kernel" / "amdgpu.ko").write_bytes(b"\x7fELF, newer")
    staged = boot.install(second, _soon())
    modules = Path(grub.modules, second.release)
    assert (modules / "kernel" / "amdgpu.ko").read_bytes() == b"\x7fELF, newer"
    assert (modules / ".tdrlab").read_text().strip() == staged.id


def test_a_module_alone_built_anew_is_another_kernel(
    link: Ssh, grub: ways.GrubBoot, tmp_path: Path
) -> None:
    """As `make M=drivers/gpu/drm/amd/amdgpu` leaves it: the image and its build id are the same."""
    maker = ("sh", "-c", f'cat {grub.modules}/"$2"/kernel/*.ko > "$1"', "make")
    boot = GrubBoot(link, msgspec.structs.replace(grub, initramfs=maker))
    kernel = replace(_kernel(tmp_path / "build"), initramfs=None)
    assert kernel.modules is not None
    first = boot.install(kernel, _soon())
    assert boot.install(kernel, _soon()) == first
    (kernel.modules / "kernel" / "amdgpu.ko").write_bytes(b"\x7fELF, newer")
    second = boot.install(kernel, _soon())
    assert second.id != first.id
    there = Path(grub.modules, kernel.release, "kernel", "amdgpu.ko")
    assert there.read_bytes() == b"\x7fELF, newer"
    made = Path(grub.boot, f"tdrlab-{second.id}", "initrd.img")
    assert made.read_bytes() == b"\x7fELF, newer"
    (kernel.modules / "kernel" / "amdgpu.ko").rename(kernel.modules / "kernel" / "amd.ko")
    assert identity(kernel) not in (first.id, second.id)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [("abstraction", "lvm\n", "cannot write its environment on lvm"), ("fs", "btrfs\n", "btrfs")],
)
def test_a_grub_that_would_take_it_for_ever_is_refused(
    link: Ssh, grub: ways.GrubBoot, tools: Path, tmp_path: Path, name: str, content: str, said: str
) -> None:
    before = (tools / name).read_text()
    (tools / name).write_text(content)
    try:
        with pytest.raises(TargetError, match=said):
            GrubBoot(link, grub).install(_kernel(tmp_path / "build"), _soon())
    finally:
        (tools / name).write_text(before)


def test_a_grub_that_does_not_look_at_our_entry_is_told(
    link: Ssh, grub: ways.GrubBoot, tmp_path: Path
) -> None:
    Path(grub.grub, "grub.cfg").write_text("set default=0\n")
    with pytest.raises(TargetError, match="next_entry"):
        GrubBoot(link, grub).install(_kernel(tmp_path / "build"), _soon())
    with pytest.raises(UsageError, match="cannot be told"):
        GrubBoot(link, grub).install(_kernel(tmp_path / "build", words="a='b c'"), _soon())


def test_systemd_boot_takes_it_once(link: Ssh, tools: Path, tmp_path: Path) -> None:
    spec = ways.SystemdBoot(boot=str(tmp_path / "efi"), modules=str(tmp_path / "modules"))
    _good(tmp_path, tools, "default good.conf\n", "")
    boot = SystemdBoot(link, spec)
    kernel = _kernel(tmp_path / "build")
    staged = boot.install(kernel, _soon())
    entry = Path(spec.boot, "loader", "entries", f"tdrlab-{staged.id}.conf").read_text()
    keys = [line.split(" ", 1)[0] for line in entry.splitlines()]
    assert keys == ["title", "version", "sort-key", "linux", "initrd", "options"]
    assert Path(spec.boot, f"tdrlab-{staged.id}", "vmlinuz").exists()
    assert entry.rstrip().endswith(f"tdrlab={staged.id} panic=10")
    boot.once(staged, _soon())
    assert (tools / "oneshot").read_text() == f"tdrlab-{staged.id}.conf\n"
    boot.home(_soon())
    assert (tools / "oneshot").read_text() == "\n"
    assert boot.prune(0, _soon()) == [staged.id]
    assert [path.name for path in Path(spec.boot, "loader/entries").iterdir()] == ["good.conf"]


def _good(tmp_path: Path, tools: Path, settings: str, key: str) -> None:
    """An ESP with a known-good entry."""
    esp = tmp_path / "efi"
    (esp / "loader/entries").mkdir(parents=True)
    (esp / "loader/loader.conf").write_text(f"timeout 3\n#default x\n{settings}")
    (esp / "loader/entries/good.conf").write_text(f"title good\n{key}linux /vmlinuz\n")
    (tools / "esp").write_text(f"{esp}\n")


@pytest.mark.parametrize(
    ("settings", "key", "safe"),
    [
        ("default GOOD.*\n", "", True),
        ("", "sort-key debian\n", True),
        ("", "", False),
        ("default *\n", "sort-key debian\n", False),
        ("default gone.conf\n", "sort-key debian\n", False),
        ("default @saved\n", "sort-key debian\n", False),
    ],
)
def test_a_systemd_boot_that_would_take_it_for_ever_is_refused(
    link: Ssh, tools: Path, tmp_path: Path, settings: str, key: str, safe: bool
) -> None:
    _good(tmp_path, tools, settings, key)
    spec = ways.SystemdBoot(boot=str(tmp_path / "efi"), modules=str(tmp_path / "modules"))
    boot = SystemdBoot(link, spec)
    if safe:
        boot.install(_kernel(tmp_path / "build"), _soon())
        return
    with pytest.raises(TargetError, match="at every boot"):
        boot.install(_kernel(tmp_path / "build"), _soon())
    assert not list(Path(spec.boot).glob("tdrlab-*"))


@pytest.mark.parametrize("url", ["http://10.0.0.1/boot/", None], ids=["ipxe", "pxelinux"])
def test_network_files_say_the_disk_but_between_once_and_home(
    link: Ssh, tmp_path: Path, url: str | None
) -> None:
    spec = ways.PxeBoot(
        directory=str(tmp_path / "tftp"),
        mac="52:54:00:12:34:56",
        url=url,
        modules=str(tmp_path / "modules"),
        notes=str(tmp_path / "notes"),
    )
    boot = PxeBoot(link, spec)
    with pytest.raises(UsageError, match="cannot be told"):
        boot.install(_kernel(tmp_path / "build", words="a=${net0/mac}"), _soon())
    staged = boot.install(_kernel(tmp_path / "build"), _soon())
    assert not boot.config.exists()
    boot.once(staged, _soon())
    text = boot.config.read_text()
    name = "52-54-00-12-34-56.ipxe" if url else "01-52-54-00-12-34-56"
    assert boot.config.name == name
    folder = f"tdrlab-52-54-00-12-34-56-{staged.id}"
    where = f"http://10.0.0.1/boot/{folder}" if url else f"/{folder}"
    assert f"{where}/vmlinuz" in text
    assert f"{where}/initrd.img" in text
    assert f"tdrlab={staged.id} panic=10\n" in text
    boot.home(_soon())
    assert "vmlinuz" not in boot.config.read_text()
    assert boot.prune(0, _soon()) == [staged.id]
    assert not (tmp_path / "tftp" / folder).exists()
    assert not Path(spec.modules, staged.kernel.release).exists()


def test_boxes_that_share_a_directory_have_their_own_files(link: Ssh, tmp_path: Path) -> None:
    kernel = _kernel(tmp_path / "build")
    boots = [
        PxeBoot(
            link,
            ways.PxeBoot(
                directory=str(tmp_path / "tftp"),
                mac=f"52:54:00:12:34:{number}",
                modules=str(tmp_path / f"modules{number}"),
                notes=str(tmp_path / f"notes{number}"),
            ),
        )
        for number in (10, 11)
    ]
    for boot in boots:
        staged = boot.install(kernel, _soon())
        boot.once(staged, _soon())
    images = sorted((tmp_path / "tftp").glob("tdrlab-*/vmlinuz"))
    files = [(path, path.stat().st_ino, path.stat().st_mtime_ns) for path in images]
    boots[0].install(kernel, _soon())
    again = [(path, path.stat().st_ino, path.stat().st_mtime_ns) for path in images]
    assert (len(files), again) == (2, files), "whoever fetches one gets it whole"
    assert boots[0].prune(0, _soon()) == [staged.id]
    (left,) = (tmp_path / "tftp").glob("tdrlab-*/vmlinuz")
    assert f"/{left.parent.name}/vmlinuz" in boots[1].config.read_text()
    # One that was copied in part is made whole.
    left.write_bytes(b"MZ")
    boots[1].install(kernel, _soon())
    assert left.read_bytes() == kernel.image.read_bytes()


def test_what_is_configured_is_taken(link: Ssh) -> None:
    def box(way: ways.BootWay) -> Target:
        return Target(driver="i915", name="box", address="box", host_key="SHA256:x", boot=way)

    pxe = ways.PxeBoot(directory="/srv/tftp", mac="52:54:00:12:34:56")
    assert isinstance(boot_for(box(ways.GrubBoot()), link), GrubBoot)
    assert isinstance(boot_for(box(ways.SystemdBoot()), link), SystemdBoot)
    assert isinstance(boot_for(box(pxe), link), PxeBoot)
    with pytest.raises(UsageError, match="boots whatever it boots"):
        boot_for(box(ways.AsIsBoot()), link)


@pytest.mark.parametrize("loader", ["grub", "systemd"])
def test_an_initramfs_is_made_there_of_modules_that_come_without(
    link: Ssh, grub: ways.GrubBoot, tools: Path, tmp_path: Path, loader: str
) -> None:
    maker = ("sh", "-c", 'echo "for $2" > "$1"', "make")
    kernel = replace(_kernel(tmp_path / "build"), initramfs=None)
    boot: GrubBoot | SystemdBoot
    if loader == "grub":
        boot = GrubBoot(link, msgspec.structs.replace(grub, initramfs=maker))
    else:
        _good(tmp_path, tools, "default good.conf\n", "")
        modules = str(tmp_path / "modules")
        boot = SystemdBoot(
            link, ways.SystemdBoot(boot=str(tmp_path / "efi"), modules=modules, initramfs=maker)
        )
    staged = boot.install(kernel, _soon())
    (made,) = tmp_path.glob(f"*/tdrlab-{staged.id}/initrd.img")
    assert made.read_text() == f"for {kernel.release}\n"
    entries = [*tmp_path.glob("efi/loader/entries/tdrlab-*"), *tmp_path.glob("boot/grub/cust*")]
    assert f"tdrlab-{staged.id}/initrd.img\n" in entries[0].read_text()
    bare = replace(kernel, modules=None, cmdline="bare")
    assert not (made.parent.parent / f"tdrlab-{boot.install(bare, _soon()).id}/initrd.img").exists()
