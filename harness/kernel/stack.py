"""Stack traces as the architectures print them: frames, and the traces they stand in.

Wording: arch/*/kernel/{dumpstack,traps,stacktrace,process}.c and lib/vsprintf.c (%pS, %pB).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["Frame", "Trace", "frame", "frames", "function", "plain", "pointer", "traces"]


@dataclass(frozen=True, slots=True)
class Frame:
    """One line of a stack.  `function` has no compiler's suffix; `offset` and `size` are None
    where the kernel printed none (inlined, or already symbolised).  `certain` is False for what
    the unwinder merely found on the stack ("? ")."""

    function: str
    offset: int | None = None
    size: int | None = None
    module: str = ""
    certain: bool = True
    address: int | None = None
    build_id: str = ""
    symbol: str = ""
    """As printed, suffixes and all: what a symbol table knows it by."""


@dataclass(frozen=True, slots=True)
class Trace:
    """One stack, its top first.  `title` is the line that announced it ("Call Trace:",
    "Freed by task 12:", "-> #1 (dma_fence_map){++++}-{0:0}:", "RIP")."""

    title: str
    frames: tuple[Frame, ...]


# GCC and clang number what they clone: foo.isra.0.cold, foo.constprop.12, foo.llvm.1234567.
_SUFFIX = re.compile(
    r"(?:\.(?:cold|isra|constprop|part|llvm|lto_priv|localalias|clone|ipa|kcfi|__uniq)"
    r"(?:\.[\w]+)*)+(?:\.\d+)*$|(?:\.\d+)+$|\$[\w.$]+$"
)
_WHERE = r"\+0x(?P<offset>[0-9a-f]+)/(?:0x)?(?P<size>[0-9a-f]+)"
_NAME = r"(?P<symbol>[A-Za-z_.$][\w.$]*|\._\w+)"
_MODULE = r"(?: \[(?P<module>[A-Za-z0-9_][\w-]*)(?: (?P<build>[0-9a-f]{16,64}))?\])?"
_SYMBOL = re.compile(rf"{_NAME}{_WHERE}{_MODULE}")

# What may stand before the symbol: an address or two in brackets, "? " for a guess, ARM's and
# s390's parenthesis, "from ", kmemleak's and perf's "0xffff... ", s390's " #0 [...]".
_FRAME = re.compile(
    r"^\s*(?:<{1,2}\w+>{1,2} +)?\(?(?:#\d+ )?(?:\[[<\s]*(?P<address>[0-9a-f]{6,16}"
    r"|inline)[>\s]*\]\s*){0,2}\s*"
    r"(?:0x[0-9a-f]{8,16}:? )?(?P<guess>\? +)?\(?(?:\d+:)?"
    rf"(?:from )?{_NAME}(?:{_WHERE})?\)?{_MODULE}(?P<rest>.*)$"
)
# What an already symbolised line may go on with; without an offset one of these must be there.
_SOURCE = re.compile(
    r"^ \(?(?:[\w./+-]+\.(?:[chSs]|rs|cpp)(?::\d+)+|\S+:\?)(?: \(discriminator \d+\))?"
)
_ARM = re.compile(r"^\)? from (?:\[<[0-9a-f]+>\] )?\(?[A-Za-z_.$]")
# The registers that point into the code that was running when the report was made.
_POINTER = re.compile(
    r"^\s*(?:R?IP|EIP|NIP|pc|PC is at|EIP is at|NIP is at|epc|era|Krnl PSW|pc hi|TPC|RIP)\b"
    rf"[^a-zA-Z_.]*(?:[0-9a-f]{{4,16}}[^\w.]+)*(?:\[<[0-9a-f]+>\]\s*)*\(?{_SYMBOL.pattern}"
)
_POINTER_INLINE = re.compile(
    r"^(?:RIP: 0010:|EIP: |pc : )(?P<symbol>[A-Za-z_.$][\w.$]*) \(?[\w./+-]+:\d+"
)
_TITLE = re.compile(
    r"^\s*(?:Call [Tt]race:|Backtrace:|backtrace(?: \(crc [0-9a-f]+\))?:|(?:Allocated|Freed"
    r"|Preemption disabled)\b.*:$"
    r"|-> #\d+ |stack backtrace:|Uninit was .*:|Local variable .*|(?:Bytes|.*stored to memory at:)"
    r"|(?:previous |assert |race at )?\S* ?(?:read|write|assert|no writes).* (?:to|of) 0x.* by "
    r"|Last potentially related work creation:|Second to last potentially .*|Trace:"
    r"|\[<[0-9a-f]+>\]$"
    r"|Krnl Code|Last Breaking-Event|kworker|.*NMI backtrace for cpu)"
)
_BREAK = re.compile(r"^\s*<(?:IRQ|NMI|SOFTIRQ|ENTRY_TRAMPOLINE|TASK|#[A-Z0-9]+|/?\w+)>\s*$")


def function(symbol: str) -> str:
    """`name.cold+0x1/0x2 [mod]` -> `name`: what survives compilers and offsets."""
    name = symbol.strip().removeprefix("? ")
    match = _SYMBOL.match(name)
    return plain(match["symbol"] if match else name)


def plain(name: str) -> str:
    """A symbol's name less what the compiler, or ppc64's ABI (a leading dot), added."""
    name = name.lstrip(".")
    return _SUFFIX.sub("", name) or name


def frame(line: str) -> Frame | None:
    """The frame that `line` shows, or None.  `line` has no prefix of the log any more."""
    match = _FRAME.match(line)
    if match is None:
        return None
    rest = match["rest"]
    if match["offset"] is None:
        arm = rest.startswith((" from ", ") from ")) and _ARM.match(rest)
        if not (arm or match["address"] == "inline" or (_SOURCE.match(rest) and line[:1] in " [(")):
            return None
    elif rest and not rest.startswith((" ", ")")):
        return None
    certain = match["guess"] is None and "(unreliable)" not in rest
    return _frame(match, certain=certain, address=match["address"])


def pointer(line: str) -> Frame | None:
    """The frame of a line like "RIP: 0010:foo+0x1/0x2" or "pc : foo+0x1/0x2", or None."""
    match = _POINTER.match(line)
    if match is not None:
        return _frame(match)
    inline = _POINTER_INLINE.match(line)
    return Frame(plain(inline["symbol"]), symbol=inline["symbol"]) if inline else None


def _frame(match: re.Match[str], certain: bool = True, address: str | None = None) -> Frame:
    offset, size = match["offset"], match["size"]
    return Frame(
        function=plain(match["symbol"]),
        offset=None if offset is None else int(offset, 16),
        size=None if size is None else int(size, 16),
        module=match["module"] or "",
        certain=certain,
        address=int(address, 16) if address and address != "inline" else None,
        build_id=match["build"] or "",
        symbol=match["symbol"],
    )


def traces(lines: Sequence[str]) -> list[Trace]:
    """The traces in `lines`, in order.  An instruction pointer is a trace of its own, titled by
    its line's first word; what an interrupt cut in two stays one trace."""
    found: list[Trace] = []
    title, gathered = "", list[Frame]()
    for line in lines:
        stripped = line.strip()
        if (seen := pointer(line)) is not None:
            _close(found, title, gathered)
            title, gathered = "", []
            found.append(Trace(stripped.split(":")[0].split(" ")[0], (seen,)))
        elif (seen := frame(line)) is not None:
            gathered.append(seen)
        elif _TITLE.match(line):
            _close(found, title, gathered)
            title, gathered = stripped, []
        elif gathered and stripped and not _BREAK.match(line) and _ends(stripped):
            _close(found, title, gathered)
            title, gathered = "", []
    _close(found, title, gathered)
    return found


def frames(lines: Sequence[str]) -> tuple[tuple[Frame, ...], ...]:
    """The stacks in `lines`, in order, each with its top first."""
    return tuple(trace.frames for trace in traces(lines))


def _ends(line: str) -> bool:
    return line.startswith(
        ("Modules linked in", "---[", "====", "The buggy", "Code:", "Memory state")
    )


def _close(found: list[Trace], title: str, gathered: Iterable[Frame]) -> None:
    kept = tuple(gathered)
    if kept:
        found.append(Trace(title, kept))
