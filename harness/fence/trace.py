"""A boot's recorded trace: opened, and the wanted events read as tables of columns.

Reads what the collector left in `boot-<boot_id>/trace/` and nothing else.  Pages may be torn,
corrupt or missing; that shows as losses, never as an error.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
from msgspec import Struct

from harness.errors import LabError, UsageError
from harness.evidence.packed import plain
from harness.fence import decode, formats, pages
from harness.fence.decode import Loss, Table
from harness.fence.formats import Format
from harness.fence.pages import Layout
from harness.fence.strings import Strings

__all__ = ["Loss", "Meta", "Recording", "Stats", "Strings", "Table", "Trace"]

# Pages of each CPU by which the byte order is told.
_HEADS = 64
_PAGE_SIZES = range(256, (1 << 24) + 1)


class Meta(Struct, frozen=True):
    """meta.json: how it was recorded.  `page_size` in bytes, `buffer_kb` KiB for each CPU."""

    page_size: int
    clock: str
    cpus: tuple[int, ...]
    buffer_kb: int
    events: dict[str, str] = {}
    """"system:event" to "on", "on, filter: ..." or "absent"."""
    probes: dict[str, str] = {}
    """"lab:name" to "on" or "absent: why"."""


class Stats(Struct, frozen=True):
    """One line of stats.jsonl: the counters of a CPU's buffer at `mono` ns."""

    mono: int
    cpu: int
    entries: int = 0
    overrun: int = 0
    commit_overrun: int = 0
    dropped: int = 0
    read: int = 0


class _Comm(Struct, frozen=True):
    mono: int
    pid: int
    comm: str


class Recording(NamedTuple):
    """What `Trace.read` found."""

    tables: Mapping[str, Table]
    strings: Strings
    losses: tuple[Loss, ...]

    def table(self, name: str) -> Table:
        """The records of an event that was asked for.  Raises UsageError for another one."""
        found = self.tables.get(name)
        if found is None:
            raise UsageError(
                f"event {name} was not read", where="trace", cure="name it in Trace.read"
            )
        return found


class Trace:
    """A trace directory; `meta` is how it was recorded."""

    def __init__(
        self, path: Path, meta: Meta, layout: Layout, formats_: Mapping[str, Format]
    ) -> None:
        self.path = path
        self.meta = meta
        self.formats = formats_
        self._layout = layout

    @classmethod
    def open(cls, path: Path) -> Trace:
        """`path` is boot-<boot_id>/trace.

        Raises LabError where that is no trace, a format is broken, or the target's byte
        order is not ours.
        """
        meta = _meta(path)
        entry = formats.parse_entry(_text(path / "formats" / "header_event"))
        page = formats.parse_page(_text(path / "formats" / "header_page"))
        if page.data >= meta.page_size or meta.page_size % 4:
            raise _no_trace(path, f"pages of {meta.page_size} bytes cannot be")
        found = {}
        for file in sorted((path / "formats").glob("*/*")):
            name = f"{file.parent.name}:{file.name}"
            found[name] = formats.parse_event(name, _text(file))
        trace = cls(path, meta, Layout(meta.page_size, page, entry), found)
        trace._refuse_big_endian()
        return trace

    @property
    def events(self) -> frozenset[str]:
        """ "system:event" of all that could have been recorded."""
        return frozenset(self.formats)

    def read(
        self, names: Collection[str], start: int | None = None, end: int | None = None
    ) -> Recording:
        """All records of the events `names` between `start` and `end` (ns, both inclusive), and
        the losses that overlap that time.

        A name without a format gives an empty table without columns: it was absent on that
        target.  The bytes in work are bounded; the result is as large as what was asked for.
        """
        wanted = [self.formats[name] for name in dict.fromkeys(names) if name in self.formats]
        tables, strings, losses = decode.read(
            self._files(),
            self._layout,
            wanted,
            -pages.NEVER if start is None else start,
            pages.NEVER if end is None else end,
        )
        for name in names:
            tables.setdefault(name, Table.without_records(None))
        return Recording(tables, strings, losses)

    def comms(self) -> dict[int, str]:
        """The name each pid had last."""
        return {line.pid: line.comm for line in _lines(self.path / "comms.jsonl", _Comm)}

    def stats(self) -> dict[int, Stats]:
        """The last counters of each CPU."""
        return {line.cpu: line for line in _lines(self.path / "stats.jsonl", Stats)}

    def _files(self) -> dict[int, Path]:
        files = {cpu: plain(self.path / f"cpu{cpu}.raw") for cpu in sorted({*self.meta.cpus})}
        return {cpu: file for cpu, file in files.items() if file.is_file()}

    def _refuse_big_endian(self) -> None:
        """A page's commit is small: where all are so only the other way round, all is.

        One page may be corrupt, so that some are looked at.
        """
        page, size = self._layout.page, self._layout.page_size
        sizes = {"little": 0, "big": 0}
        for file in self._files().values():
            with file.open("rb") as stream:
                for nth in range(_HEADS):
                    stream.seek(nth * size + page.commit)
                    commit = stream.read(page.commit_size)
                    for order in ("little", "big"):
                        used = int.from_bytes(commit, order) & ~pages.FLAGS
                        sizes[order] += 0 < used <= size - page.data
        if sizes["big"] and not sizes["little"]:
            raise LabError(
                "the trace was recorded on a big-endian machine, which is not supported",
                where=str(self.path),
                cure="use a little-endian target",
            )


def _meta(path: Path) -> Meta:
    try:
        meta = msgspec.json.decode(_text(path / "meta.json"), type=Meta)
    except msgspec.MsgspecError as error:
        raise _no_trace(path, f"meta.json is broken: {error}") from error
    if meta.page_size not in _PAGE_SIZES or not all(cpu >= 0 for cpu in meta.cpus):
        raise _no_trace(path, f"meta.json tells of pages of {meta.page_size} bytes")
    return meta


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except OSError as error:
        raise _no_trace(path, error.strerror or str(error)) from error


_Line = TypeVar("_Line", bound=Struct)


def _lines(path: Path, kind: type[_Line]) -> Iterator[_Line]:
    """Lines of a stream that may not be there, or be torn."""
    if not path.is_file():
        return
    decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(kind)
    for line in path.read_bytes().splitlines():
        try:
            yield decoder.decode(line)
        except msgspec.MsgspecError:
            continue


def _no_trace(path: Path, why: str) -> LabError:
    return LabError(
        f"no trace can be read: {why}",
        where=str(path),
        cure="name a boot's trace directory of a run that recorded one",
    )
