"""Frames of every architecture."""

from __future__ import annotations

import pytest

from harness.kernel import stack


@pytest.mark.parametrize(
    ("line", "function", "module"),
    [
        (" foo.isra.0+0x1/0x2 [amdgpu]", "foo", "amdgpu"),
        (" foo.constprop.0.cold+0x12/0x20", "foo", ""),
        (" [<ffffffff81000000>] foo+0x1/0x20 [drm]", "foo", "drm"),
        ("[<8054b7c0>] (foo) from [<8037e608>] (bar+0xf8/0x23c)", "foo", ""),
        (" foo from bar+0x10/0x14", "foo", ""),
        ("[c000000000000002] [c000000000000003] .foo+0x1/0x2", "foo", ""),
        ("([<0000000000100010>] foo+0x1/0x2)", "foo", ""),
        (" <IRQ>  [<ffffffff816ecb37>] foo+0x31a/0x325", "foo", ""),
        (" [<     inline     >] foo lib/dump_stack.c:15", "foo", ""),
        (" foo lib/dump_stack.c:88 [inline]", "foo", ""),
        (" foo (lib/dump_stack.c:107 (discriminator 4))", "foo", ""),
        (" foo+0x1/0x2 fs/x.c:12", "foo", ""),
        (" foo+0x1/0x2 [xe 0123456789abcdef0123456789abcdef01234567]", "foo", "xe"),
        (" foo.llvm.1234567+0x1/0x2", "foo", ""),
    ],
)
def test_frames(line: str, function: str, module: str) -> None:
    frame = stack.frame(line)
    assert frame is not None
    assert (frame.function, frame.module, frame.certain) == (function, module, True)


@pytest.mark.parametrize(
    "line", [" ? foo+0x1/0x2", " [<ffffffff81000000>] ? foo+0x1/0x2", "[c0] [c1] foo+0x1/0x2 (x)"]
)
def test_guesses_are_told_apart(line: str) -> None:
    frame = stack.frame(
        line.replace("[c0] [c1]", "[c00000000] [c00000001]").replace("(x)", "(unreliable)")
    )
    assert frame is not None
    assert not frame.certain


@pytest.mark.parametrize(
    "line",
    [
        "",
        "Not tainted 5.3",
        "RIP: 0033:0x459879",
        "  lock(foo);",
        " some text file.c:12 here",
        "Read of size 4 at addr ffff8881143a9810 by task bash/5320",
        "R10: 0000000000000000 R11: ffff8881f1822e48 R12: ffff8881f1822e50",
    ],
)
def test_other_lines_are_no_frames(line: str) -> None:
    assert stack.frame(line) is None


@pytest.mark.parametrize(
    "line",
    [
        "RIP: 0010:foo+0x1/0x2 [drm]",
        "RIP: 0010:[<ffffffff81000000>]  [<ffffffff81000000>] foo+0x1/0x2",
        "RIP: 0010:foo fs/x.c:12 [inline]",
        "EIP is at foo+0x1/0x2 [i915]",
        "pc : foo+0x14/0x28",
        "PC is at foo+0xa8/0x18c",
        "NIP [c000000000000000] .foo+0x1/0x2",
        "epc : foo+0x1/0x2",
        "Krnl PSW : 0704c00180000000 0000000000123456 (foo+0x1/0x2)",
    ],
)
def test_instruction_pointers(line: str) -> None:
    frame = stack.pointer(line)
    assert frame is not None
    assert frame.function == "foo"


def test_traces_are_titled_and_in_order() -> None:
    lines = [
        "BUG: KASAN: use-after-free in foo+0x1/0x2",
        "Call Trace:",
        " <TASK>",
        " foo+0x1/0x2",
        " ? bar+0x1/0x2",
        " </TASK>",
        "",
        "Freed by task 12:",
        " kfree+0x1/0x2",
    ]
    found = [(t.title, [f.function for f in t.frames]) for t in stack.traces(lines)]
    assert found == [("Call Trace:", ["foo", "bar"]), ("Freed by task 12:", ["kfree"])]
