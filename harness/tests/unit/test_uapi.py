"""Every ctypes definition of the kernel's ABIs against the kernel's own headers.

The C program is made from what is found in harness/agent/uapi, so a structure
or an ioctl that is added there is checked here without another line.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import pkgutil
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from harness.agent import uapi
from harness.agent.uapi.ioc import Ioctl

__all__: list[str] = []

_SIZE_BITS = 0x3FFF << 16
# Debian moves DRM's headers to libdrm-dev.  A kernel tree can be named instead.
_INCLUDES = ["/usr/include", "/usr/include/libdrm"]
_TREE = "LAB_KERNEL_TREE"


def _modules() -> Iterator[ModuleType]:
    for found in pkgutil.iter_modules(uapi.__path__):
        module = importlib.import_module(f"{uapi.__name__}.{found.name}")
        if hasattr(module, "HEADER"):
            yield module


def _structures(module: ModuleType) -> Iterator[Any]:
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, (ctypes.Structure, ctypes.Union)):
            yield value


def _fields(kind: Any, prefix: str = "", base: int = 0) -> Iterator[tuple[str, int, int]]:
    """(C path, offset, size) of all members, those of nested structures included.

    Not of paddings, named with a `_`: a later kernel may give one a name and a use.
    """
    anonymous = getattr(kind, "_anonymous_", ())
    for name, inner, *_ in kind._fields_:
        offset = base + getattr(kind, name).offset
        path = prefix if name in anonymous else f"{prefix}{name}"
        if name not in anonymous and not name.startswith("_"):
            yield path, offset, ctypes.sizeof(inner)
        if isinstance(inner, type) and issubclass(inner, (ctypes.Structure, ctypes.Union)):
            yield from _fields(inner, prefix if name in anonymous else f"{path}.", offset)


def _program(module: ModuleType) -> tuple[str, dict[str, int], set[str]]:
    """C that prints what the header says, what we say, and which values may be larger there."""
    lines, ours, prefixes = [], {}, set()
    for kind in _structures(module):
        name = getattr(kind, "c_name", None)
        if name is None:
            continue  # one without a name in C, checked as a member
        ours[f"sizeof({name})"] = ctypes.sizeof(kind)
        lines.append(f'P("sizeof({name})", sizeof({name}));')
        if getattr(kind, "c_prefix", False):
            prefixes.add(f"sizeof({name})")
        for path, offset, size in _fields(kind):
            ours[f"{name}.{path}"] = offset
            lines.append(f'P("{name}.{path}", offsetof({name}, {path}));')
            key = f"sizeof({name}.{path})"
            ours[key] = size
            lines.append(f'P("{key}", sizeof((({name} *)0)->{path}));')
    for value in vars(module).values():
        if isinstance(value, Ioctl):
            ours[value.name] = value.number
            lines.append(f'P("{value.name}", {value.name});')
            if getattr(value.argument, "c_prefix", False):
                prefixes.add(value.name)
    source = "\n".join(
        [
            "#include <stdio.h>",
            "#include <stddef.h>",
            "#include <sys/ioctl.h>",
            f"#include <{module.HEADER}>",
            '#define P(name, value) printf("%s=%llu\\n", name, (unsigned long long)(value))',
            "int main(void) {",
            *lines,
            "return 0; }",
        ]
    )
    return source, ours, prefixes


def _flags(header: str) -> list[str]:
    """Where the compiler finds `header`; skips where it does not."""
    tree = os.environ.get(_TREE)
    if tree:
        # After the system's: a tree's headers are not made for userspace as they are.
        return ["-D__user=", "-idirafter", f"{tree}/include/uapi"]
    if Path("/usr/include", header).exists():
        return []
    for include in _INCLUDES:
        if Path(include, Path(header).name).exists():
            return ["-idirafter", include]
    pytest.skip(f"no {header}: install libdrm-dev and linux-libc-dev, or set {_TREE}")


@pytest.mark.parametrize("module", list(_modules()), ids=lambda module: module.__name__)
def test_every_size_offset_and_number_is_the_headers(module: ModuleType, tmp_path: Path) -> None:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: install gcc")
    flags = _flags(module.HEADER)
    source, ours, prefixes = _program(module)
    assert ours
    if not Path("/usr/include", module.HEADER).exists() and not os.environ.get(_TREE):
        source = source.replace(f"<{module.HEADER}>", f"<{Path(module.HEADER).name}>")
    (tmp_path / "abi.c").write_text(source)
    built = subprocess.run(
        [compiler, "-o", str(tmp_path / "abi"), str(tmp_path / "abi.c"), *flags],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    output = subprocess.run([str(tmp_path / "abi")], capture_output=True, text=True, check=True)
    theirs = {
        name: int(value)
        for name, _, value in (line.rpartition("=") for line in output.stdout.splitlines())
    }
    assert theirs.keys() == ours.keys()
    wrong = {
        name: (ours[name], theirs[name])
        for name in ours
        if not _same(ours[name], theirs[name], name in prefixes)
    }
    assert not wrong, "ours, the header's"


def _same(ours: int, theirs: int, prefix: bool) -> bool:
    """An ABI that grew at its end still takes the shorter argument (drm_ioctl.c)."""
    if not prefix:
        return ours == theirs
    if ours > _SIZE_BITS:  # an ioctl's number, which holds the size
        return ours & ~_SIZE_BITS == theirs & ~_SIZE_BITS and ours <= theirs
    return ours <= theirs


def test_the_check_finds_what_is_wrong() -> None:
    assert not _same(8, 12, prefix=False)
    assert _same(8, 12, prefix=True)
    assert not _same(12, 8, prefix=True)
    assert _same(0xC0106441, 0xC0186441, prefix=True)
    assert not _same(0xC0106441, 0xC0106442, prefix=True)


def test_numbers_recorded_from_a_running_6_12() -> None:
    """Independent of any header installed here: x86-64, Linux 6.12."""
    from harness.agent.uapi import amdgpu, dmabuf, drm, i915, swsync, syncfile, vgem

    recorded = {
        amdgpu.GEM_CREATE: 0xC0206440,
        amdgpu.GEM_MMAP: 0xC0086441,
        amdgpu.CTX: 0xC0106442,
        amdgpu.CS: 0xC0186444,
        amdgpu.INFO: 0x40206445,
        amdgpu.GEM_VA: 0x40286448,
        amdgpu.WAIT_CS: 0xC0206449,
        amdgpu.FENCE_TO_HANDLE: 0xC0206454,
        i915.GETPARAM: 0xC0106446,
        i915.GEM_CREATE: 0xC010645B,
        i915.GEM_SET_DOMAIN: 0x400C645F,
        i915.GEM_MMAP_OFFSET: 0xC0206464,
        i915.GEM_EXECBUFFER2_WR: 0xC0406469,
        i915.GEM_WAIT: 0xC010646C,
        i915.GEM_CONTEXT_CREATE_EXT: 0xC010646D,
        i915.GET_RESET_STATS: 0xC0186472,
        i915.QUERY: 0xC0106479,
        drm.DRM_IOCTL_SYNCOBJ_CREATE: 0xC00864BF,
        drm.DRM_IOCTL_SYNCOBJ_HANDLE_TO_FD: 0xC01064C1,
        drm.DRM_IOCTL_SYNCOBJ_QUERY: 0xC01864CB,
        drm.DRM_IOCTL_SYNCOBJ_TRANSFER: 0xC02064CC,
        drm.DRM_IOCTL_SYNCOBJ_TIMELINE_SIGNAL: 0xC01864CD,
        syncfile.SYNC_IOC_FILE_INFO: 0xC0383E04,
        syncfile.SYNC_IOC_MERGE: 0xC0303E03,
        dmabuf.DMA_BUF_IOCTL_SYNC: 0x40086200,
        dmabuf.DMA_BUF_IOCTL_EXPORT_SYNC_FILE: 0xC0086202,
        dmabuf.DMA_BUF_IOCTL_IMPORT_SYNC_FILE: 0x40086203,
        vgem.FENCE_ATTACH: 0xC0106441,
        vgem.FENCE_SIGNAL: 0x40086442,
        swsync.CREATE_FENCE: 0xC0285700,
        swsync.INC: 0x40045701,
    }
    assert {ioctl.name: hex(ioctl.number) for ioctl in recorded} == {
        ioctl.name: hex(number) for ioctl, number in recorded.items()
    }
