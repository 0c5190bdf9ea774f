"""Stacks with source lines, on small images built here: a kernel's and a module's form."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli import main
from harness.errors import LabError, UsageError
from harness.kernel.stack import frame
from harness.kernel.symbols import Image, kernel_build_id, module_name
from harness.lab.symbolise import Symboliser
from harness.tests.unit.test_lockdep import FENCED

TOOLS = ("gcc", "ld", "nm", "objdump", "addr2line", "objcopy")
pytestmark = pytest.mark.skipif(
    not all(shutil.which(tool) for tool in TOOLS), reason="no compiler or binutils here"
)

SOURCE = """\
int depth;
__attribute__((noinline)) void foo_wait(int n)
{
        depth += n;
        __asm__ volatile ("");
}
static inline __attribute__((always_inline)) void foo_lock(int n)
{
        foo_wait(n);
        depth++;
}
__attribute__((noinline)) int foo_recover(int n)
{
        depth = n;
        foo_lock(n + 1);
        return depth;
}
void _start(void)
{
        foo_recover(1);
        depth++;
}
"""


def run(*argv: str | Path) -> str:
    done = subprocess.run([*map(str, argv)], check=True, text=True, capture_output=True)
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with vmlinux and foo-bar.ko, both of SOURCE."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "foo.c").write_text(SOURCE)
    run(
        "gcc",
        "-g",
        "-O2",
        "-fno-pie",
        "-fno-toplevel-reorder",
        "-c",
        folder / "foo.c",
        "-o",
        folder / "foo.o",
    )
    run("ld", "-static", "--build-id=sha1", folder / "foo.o", "-o", folder / "vmlinux")
    run("ld", "-r", "--build-id=sha1", folder / "foo.o", "-o", folder / "foo-bar.ko")
    return folder  # fmt: skip


def printed(image: Path, function: str = "foo_recover") -> str:
    """How the kernel would print the frame of `function`, in the middle of its call."""
    starts = {
        name: int(address, 16)
        for address, kind, name in (line.split() for line in run("nm", image).splitlines())
        if kind in "tT"
    }
    start = starts[function]
    size = min((a - start for a in starts.values() if a > start), default=0)
    code = run("objdump", "-d", "--no-show-raw-insn", image).splitlines()
    at = next(
        n
        for n, line in enumerate(code)
        if "call" in line and start <= int(line.split(":")[0], 16) < start + (size or 1 << 20)
    )
    after = int(code[at + 1].split(":")[0], 16)
    if not size:
        size = after - start + 8
    return f" {function}+0x{after - start:x}/0x{size:x}"


def line_of(text: str) -> int:
    return next(n for n, line in enumerate(SOURCE.splitlines(), 1) if text in line)


def test_kernel_frame_gains_its_line_and_what_was_inlined(built: Path) -> None:
    lines = ["Call Trace:", " <TASK>", printed(built / "vmlinux"), " bar+0x1/0x2", " </TASK>"]
    told = Symboliser([built / "vmlinux"]).annotate(lines)
    assert told[:2] == lines[:2]
    assert told[2].startswith(" foo_lock at ")
    assert told[2].endswith(f"foo.c:{line_of('foo_wait(n);')} (inlined)")
    assert told[3].startswith(f"{lines[2]} at ")
    assert told[3].endswith(f"foo.c:{line_of('foo_lock(n + 1);')}")
    assert told[4:] == lines[3:]


def test_module_frame(built: Path) -> None:
    line = f"{printed(built / 'foo-bar.ko')} [foo_bar]"
    (sources,) = Symboliser([built / "foo-bar.ko"]).sources([line]).values()
    assert [(s.function, s.line, s.inlined) for s in sources] == [
        ("foo_lock", line_of("foo_wait(n);"), True),
        ("foo_recover", line_of("foo_lock(n + 1);"), False),
    ]


def test_instruction_pointer_is_no_return_address(built: Path) -> None:
    frame_line = printed(built / "vmlinux").strip()
    lines = [f"RIP: 0010:{frame_line}"]
    (sources,) = Symboliser([built / "vmlinux"]).sources(lines).values()
    assert sources[0].line == line_of("depth++;")


def test_frame_of_another_module_or_size_or_kernel_is_left_alone(built: Path) -> None:
    line = printed(built / "vmlinux")
    other = [f"{line} [baz]", re.sub(r"/0x\w+", "/0xfff", line), " foo_gone+0x4/0x10"]
    assert Symboliser([built / "vmlinux"]).annotate(other) == other


def test_report_of_another_build_is_left_alone_and_said(built: Path) -> None:
    line = printed(built / "vmlinux")
    own = Image.read(built / "vmlinux").build_id
    symbols = Symboliser([built / "vmlinux"])
    head = "CPU: 0 UID: 0 PID: 1 Comm: foo Not tainted 6.12.0 #1 "
    assert symbols.mismatched([f"{head}{own}", line]) == []
    assert len(symbols.sources([f"{head}{own}", line])) == 1
    wrong = [f"{head}{'0' * 40}", line]
    assert symbols.mismatched(wrong) == ["vmlinux"]
    assert symbols.annotate(wrong) == wrong


def test_module_of_another_build_is_left_alone(built: Path) -> None:
    module = Image.read(built / "foo-bar.ko")
    symbols = Symboliser([built / "foo-bar.ko"])
    line = printed(built / "foo-bar.ko")
    assert len(symbols.sources([f"{line} [foo_bar {module.build_id}]"])) == 1
    wrong = [f"{line} [foo_bar {'1' * 40}]"]
    assert symbols.mismatched(wrong) == ["foo_bar"]
    assert symbols.annotate(wrong) == wrong


def test_image_knows_itself(built: Path) -> None:
    kernel, module = Image.read(built / "vmlinux"), Image.read(built / "foo-bar.ko")
    noted = re.search(r"Build ID: (\w+)", run("readelf", "-n", built / "vmlinux"))
    assert noted is not None
    assert kernel.build_id == noted[1]
    assert (kernel.relocatable, module.relocatable, kernel.debug) == (False, True, True)
    assert (module_name(module.path), module_name(kernel.path)) == ("foo_bar", "")


def test_same_name_twice_is_never_guessed(built: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.c").write_text(
            f"int {name}; static __attribute__((noinline, used)) void same(int n)"
            f" {{ {name} = n; }} void {name}_f(void) {{ same(1); }}"
        )
        run("gcc", "-g", "-O1", "-c", tmp_path / f"{name}.c", "-o", tmp_path / f"{name}.o")
    run("ld", "-r", tmp_path / "one.o", tmp_path / "two.o", "-o", tmp_path / "m.ko")
    listed = [line.split() for line in run("nm", "-n", tmp_path / "m.ko").splitlines()]
    code = [(int(address, 16), name) for address, kind, name in listed if kind in "tT"]
    gaps = [after - at for (at, name), (after, _) in pairwise(code) if name == "same"]
    assert len(gaps) == 2
    assert len(set(gaps)) == 1
    seen = frame(f" same+0x2/0x{gaps[0]:x} [m]")
    assert seen is not None
    assert Image.read(tmp_path / "m.ko").place(seen) is None


@pytest.mark.parametrize(
    "content", [b"", b"no ELF", b"\x7fELF\x02\x01\x01" + b"\xff" * 80, b"\x7fELF\x02\x01\x01"]
)
def test_what_is_no_image_is_a_clear_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="vmlinux"):
        Image.read(path)


def test_image_without_debug_info_is_a_clear_error(built: Path, tmp_path: Path) -> None:
    bare = tmp_path / "vmlinux"
    run("objcopy", "--strip-debug", built / "vmlinux", bare)
    assert Image.read(bare).debug is False
    with pytest.raises(UsageError, match="no debug info"):
        Symboliser([bare])


def test_missing_tool_is_the_labs_fault(built: Path) -> None:
    symbols = Symboliser([built / "vmlinux"], tool="no-such-addr2line")
    with pytest.raises(LabError, match="not installed"):
        symbols.annotate([printed(built / "vmlinux")])


def test_kernel_build_id_is_taken_from_the_report() -> None:
    assert (
        kernel_build_id(["foo", f"CPU: 1 PID: 2 Comm: x Not tainted 6.1 #1 {'ab' * 20}"])
        == "ab" * 20
    )
    assert kernel_build_id(["CPU: 1 PID: 2 Comm: x Not tainted 6.1 #1"]) == ""  # fmt: skip


def test_lab_dmesg_shows_source_lines(built: Path, tmp_path: Path) -> None:
    head = [
        "BUG: sleeping function called from invalid context at foo.c:1",
        "Call Trace:",
        " <TASK>",
    ]
    text = "\n".join([*head, printed(built / "vmlinux"), " </TASK>"])
    (tmp_path / "log").write_text("".join(f"[    1.000000] {x}\n" for x in text.split("\n")))
    argv = ["dmesg", str(tmp_path / "log"), "--symbols", str(built / "vmlinux")]
    shown = CliRunner().invoke(main, [*argv, "--full"]).output
    assert f"foo.c:{line_of('foo_lock(n + 1);')}" in shown
    (line,) = CliRunner().invoke(main, [*argv, "--json"]).output.splitlines()
    assert "(inlined)" in json.loads(line)["text"]


def test_lab_dmesg_tells_the_cycle_to_programs(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("".join(f"[    1.000000] {x}\n" for x in FENCED.split("\n")))
    (line,) = (
        CliRunner().invoke(main, ["dmesg", str(tmp_path / "log"), "--json"]).output.split("\n")[:-1]
    )
    told = json.loads(line)
    assert told["cycle"] == ["console_lock", "fs_reclaim", "dma_fence_map"]
    assert told["cycle_complete"] is True
    assert (told["takes"], told["driver"]) == ("console_lock", "foo")
