"""Deaths: the boot and the test that something found later is of.

The boot is told by the log's own lines, the test by the journal; both from the run alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.evidence import journal
from harness.evidence.packed import plain
from harness.evidence.rundir import RunDir
from harness.kernel import pstore, records
from harness.kernel.merge import read_netconsole
from harness.kernel.records import Record

__all__ = ["boots_of", "test_of"]

# So many boots back it may be of.
_BACK = 3
_STREAMS = (
    ("kmsg", records.parse),
    ("console.log", records.parse_console),
    ("netconsole.log", read_netconsole),
)


def boots_of(run: RunDir, past: Sequence[str], logs: Sequence[bytes]) -> list[str]:
    """Which of the boots `past`, oldest first, each of `logs` is of; "" for none."""
    return pstore.owners(logs, ((boot, _records(run, boot)) for boot in past[-_BACK:]))


def test_of(run: RunDir, boot: str) -> str:
    """The last test that began on that boot; "" for none."""
    begun = [
        entry["test"]
        for entry in journal.read(run.journal.path)
        if entry["what"] == "test-start" and entry.get("boot") == boot
    ]
    return begun[-1] if boot and begun else ""


def _records(run: RunDir, boot: str) -> Iterator[Record]:
    """All that is known of a boot."""
    for name, read in _STREAMS:
        path = plain(run.boot(boot) / name)
        if path.exists():
            with path.open("rb") as stream:
                yield from read(stream)
