"""The attachment for a bug report: one test's evidence as a tar.zst, secrets taken out.

It is a run directory of that one test: whoever gets it looks at it with `less`, or, where the
trace is packed too, judges it again with `lab replay`.
"""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
import zstandard

from harness.errors import UsageError
from harness.evidence import journal
from harness.evidence.packed import plain
from harness.evidence.rundir import Window
from harness.lab import mail
from harness.lab.casefile import Case
from harness.lab.mail import Since
from harness.lab.redact import Redactor

__all__ = ["write"]

# Of a stream, in bytes, before and after the test's window; the boot's own beginning is kept.
_HEAD, _AROUND = 2 << 20, 2 << 20
# Kept as it is, known secrets blotted out; anything larger is left out and named.
_LARGEST = 64 << 20
_STREAMS = ("kmsg", "console.log", "netconsole.log", "uevents.jsonl", "agent-events.jsonl")
# Made anew by whoever wants them, from the streams: they would have to be taken apart.
_LEFT_OUT = ("fences.perfetto-trace",)
_TEXTS = (".json", ".jsonl", ".log", ".txt", ".svg", ".html", ".xml", "")


def write(
    case: Case, out: Path, redactor: Redactor, since: Since | None = None, trace: bool = False
) -> list[str]:
    """Write the bundle to `out`; the names of what it holds.  With `trace`, the raw trace too.

    Raises UsageError where `out` cannot be written.
    """
    root = redactor.text(case.run.path.name)
    members: dict[str, bytes] = {}
    for name, data in _members(case, redactor, since, trace):
        members[f"{root}/{redactor.text(name)}"] = data
    # Last: it tells how much was taken out.
    members[f"{root}/README"] = _readme(case, redactor, sorted(members)).encode()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in sorted(members):
            info = tarfile.TarInfo(name)
            info.size = len(members[name])
            info.mode = 0o644
            tar.addfile(info, io.BytesIO(members[name]))
    try:
        out.write_bytes(zstandard.ZstdCompressor(level=12).compress(packed.getvalue()))
    except OSError as error:
        raise UsageError(
            f"cannot write the bundle: {error.strerror}", where=str(out), cure="give another -o"
        ) from error
    return sorted(members)


def _members(
    case: Case, redactor: Redactor, since: Since | None, trace: bool
) -> Iterator[tuple[str, bytes]]:
    run = case.run.path
    yield "run.json", _json(redactor.value(case.facts))
    lines = [
        entry
        for entry in journal.read(case.run.journal.path)
        if entry.get("test") in (None, case.test)
    ]
    yield "journal.jsonl", b"".join(msgspec.json.encode(redactor.value(e)) + b"\n" for e in lines)
    for finding in case.failing:
        text = mail.compose(case, finding, since, redactor)
        yield f"mail-{finding.signature}.txt", text.encode()
    window = case.window
    boot = run / f"boot-{window.boot_id}" if window and window.boot_id else None
    if boot is not None and window is not None and boot.is_dir():
        offset = window.offset
        for stream in _STREAMS:
            path = plain(boot / stream)
            if path.exists():
                data, moved = _stream(path, stream, window, redactor)
                offset = moved if stream == "kmsg" else offset
                yield f"{boot.name}/{stream}", data
        yield from _boot_files(boot, redactor, trace)
        window = msgspec.structs.replace(window, offset=offset)
    for path in sorted(case.directory.rglob("*")):
        name = f"tests/{case.directory.name}/{path.relative_to(case.directory)}"
        if path.name == "window.json" and window is not None:
            yield name, _json(redactor.value(msgspec.to_builtins(window)))
        elif path.is_file() and path.name not in _LEFT_OUT:
            yield name, _file(path, redactor)


def _boot_files(boot: Path, redactor: Redactor, trace: bool) -> Iterator[tuple[str, bytes]]:
    config = boot / "config.gz"
    if config.exists():
        text = gzip.decompress(config.read_bytes()).decode("utf-8", "surrogateescape")
        yield f"{boot.name}/config", redactor.text(text).encode("utf-8", "surrogateescape")
    # Never a dead kernel's memory: whatever was in it.
    for path in sorted([*boot.glob("pstore/*"), *boot.glob("kdump/dmesg-*.txt")]):
        if path.is_file():
            yield str(path.relative_to(boot.parent)), _file(path, redactor)
    for path in sorted(boot.glob("trace*/**/*")) if trace else ():
        if path.is_file():
            yield str(path.relative_to(boot.parent)), _file(path, redactor)


def _stream(path: Path, name: str, window: Window, redactor: Redactor) -> tuple[bytes, int]:
    """A stream without secrets, and where in it the byte at the window's offset has come to lie.

    Of the kernel log only the boot's beginning and what lies about the test: its window is known.
    """
    raw = path.read_bytes()
    if name != "kmsg":
        cut = raw if len(raw) <= _LARGEST else raw[:_HEAD] + b"\n" + raw[-_LARGEST + _HEAD :]
        return _clean(cut.splitlines(keepends=True), redactor), 0
    begin, end = window.offset, _end(raw, window)
    first, last = _line_start(raw, begin - _AROUND), _line_start(raw, end + _AROUND)
    head = raw[: _line_start(raw, _HEAD)] if first > _HEAD else b""
    before = head + raw[first if head else 0 : begin]
    clean = [
        line.encode("utf-8", "surrogateescape")
        for line in redactor.lines(_decoded((before + raw[begin:last]).splitlines(keepends=True)))
    ]
    lines_before = len(before.splitlines())
    return b"".join(clean), sum(map(len, clean[:lines_before]))


def _end(raw: bytes, window: Window) -> int:
    """Where the window's last record begins; the stream's end where that never came."""
    if window.last_seq is None:
        return len(raw)
    at = window.offset
    while 0 <= at < len(raw):
        line = raw[at : at + 64]
        parts = line.split(b",", 2)
        if len(parts) == 3 and parts[1].isdigit() and int(parts[1]) >= window.last_seq:
            return at
        at = raw.find(b"\n", at) + 1 or len(raw)
    return len(raw)


def _line_start(raw: bytes, at: int) -> int:
    """The start of the line that holds byte `at`."""
    if at <= 0:
        return 0
    return len(raw) if at >= len(raw) else raw.rfind(b"\n", 0, at) + 1


def _file(path: Path, redactor: Redactor) -> bytes:
    if path.stat().st_size > _LARGEST:
        return f"[{path.stat().st_size} bytes, left out]\n".encode()
    data = path.read_bytes()
    if path.suffix in (".json", ".jsonl"):
        return _json_lines(data, redactor)
    if path.suffix in _TEXTS and b"\0" not in data:
        return _clean(data.splitlines(keepends=True), redactor)
    return redactor.data(data)


def _json_lines(data: bytes, redactor: Redactor) -> bytes:
    """JSON, or lines of it, of which the strings are looked at as they were before escaping."""
    try:
        return _json(redactor.value(msgspec.json.decode(data)))
    except msgspec.DecodeError:
        pass
    lines = []
    for line in data.splitlines():
        try:
            lines.append(msgspec.json.encode(redactor.value(msgspec.json.decode(line))) + b"\n")
        except msgspec.DecodeError:
            lines.append(_clean([line + b"\n"], redactor))
    return b"".join(lines)


def _clean(lines: Iterable[bytes], redactor: Redactor) -> bytes:
    cleaned = redactor.lines(_decoded(lines))
    return b"".join(line.encode("utf-8", "surrogateescape") for line in cleaned)


def _decoded(lines: Iterable[bytes]) -> Iterator[str]:
    """Any byte survives the way there and back."""
    for line in lines:
        yield line.decode("utf-8", "surrogateescape")


def _json(value: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def _readme(case: Case, redactor: Redactor, names: Iterable[str]) -> str:
    taken = ", ".join(f"{count} of kind {kind}" for kind, count in redactor.replaced.items())
    return "\n".join(
        [
            "Evidence of one test, from a tdrlab run: a GPU was hung, its recovery was watched.",
            "",
            f"test:    {redactor.text(case.test)}",
            f"verdict: {case.verdict.outcome}: {redactor.text(case.verdict.reason)}",
            "",
            "mail-*.txt         each finding in words, its lock cycle, how to reproduce it",
            "boot-*/kmsg        the kernel log as /dev/kmsg gives it, to the test's end",
            "boot-*/console.log what came over the console",
            "tests/*/           the test's window into the logs, its findings, its fences as a",
            "                   picture, dumps; a devcoredump holds whatever was in GPU memory",
            "",
            "Secrets were taken out before this was packed, each as <kind-number>, the same",
            f"everywhere: {taken or 'none were found'}.  Look through it before you publish it.",
            "",
            *(name.partition("/")[2] for name in names),
            "",
        ]
    )
