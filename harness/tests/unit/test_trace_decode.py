"""The decoder against a slow one that was written apart from it: all layouts, all records, and
pages that no kernel ever wrote."""

from __future__ import annotations

import itertools
import json
import random
import tracemalloc
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from harness.errors import LabError, UsageError
from harness.fence import decode as fast
from harness.fence.trace import Recording, Trace
from harness.tests.ringpages import EVENTS, Shape, make
from harness.tests.slowdecoder import Row, decode
from harness.tests.traces import Name, sample, tiled

SHAPES = [
    Shape(),
    Shape(page_size=16384),
    Shape(page_size=1024, long=4),
    Shape(page_size=4096, align8=True),
]


def rows(found: Recording, name: str) -> list[Row]:
    """A table as the slow decoder gives it."""
    table = found.table(name)
    is_text = {
        column: column in ("driver", "timeline", "comm", "name") or column.endswith("_comm")
        for column in table.columns
    }

    def value(column: str, nth: int) -> Any:
        cell = table.columns[column][nth]
        return found.strings[int(cell)] if is_text[column] else cell.tolist()

    return [
        Row(
            int(table.time[nth]),
            int(table.cpu[nth]),
            int(table.pid[nth]),
            {column: value(column, nth) for column in table.columns},
        )
        for nth in range(len(table))
    ]


def assert_same(path: Path) -> Recording:
    """Both decoders say the same of a trace."""
    slow = decode(path)
    trace = Trace.open(path)
    found = trace.read(trace.events)
    for name, expected in slow.rows.items():
        assert rows(found, name) == expected, name
    losses = [(loss.cpu, loss.after_ns, loss.before_ns, loss.count) for loss in found.losses]
    assert sorted(losses, key=repr) == sorted(slow.losses, key=repr)
    return found


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_kind_of_record(shape: Shape, seed: int, tmp_path: Path) -> None:
    found = assert_same(make(tmp_path, shape, seed, 40))
    assert all(len(found.table(name)) > 20 for name in EVENTS)
    assert found.losses


@pytest.mark.parametrize("name", get_args(Name))
def test_recorded(name: Name, tmp_path: Path) -> None:
    found = assert_same(sample(name, tmp_path))
    assert sum(map(len, found.tables.values())) > 20000


def test_more_than_one_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path, Shape(), 5, 40)
    trace = Trace.open(path)
    at_once = trace.read(trace.events)
    monkeypatch.setattr(fast, "CHUNK_BYTES", 1)
    monkeypatch.setattr(fast, "CHUNK_PAGES", 3)
    in_parts = assert_same(path)
    assert in_parts.losses == at_once.losses
    for name in EVENTS:
        assert rows(in_parts, name) == rows(at_once, name)
        assert in_parts.table(name).order.tolist() == at_once.table(name).order.tolist()


def test_memory_is_bounded_by_what_is_wanted_not_by_the_files(tmp_path: Path) -> None:
    path = tiled(sample("storm", tmp_path), 24)
    pages = sum(file.stat().st_size for file in path.glob("*.raw"))
    trace = Trace.open(path)
    tracemalloc.start()
    try:
        found = trace.read(["sched:sched_switch"])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(found.table("sched:sched_switch")) >= 24
    assert peak < pages / 2, f"{peak >> 10} KiB for {pages >> 10} KiB of pages"


def test_order_ranks_all_that_was_read(tmp_path: Path) -> None:
    trace = Trace.open(sample("hangs", tmp_path))
    found = trace.read(trace.events)
    tables = found.tables.values()
    order = np.concatenate([table.order for table in tables])
    keys = np.stack([np.concatenate([getattr(t, key) for t in tables]) for key in ("time", "cpu")])
    by_order = keys[:, np.argsort(order)]
    assert np.array_equal(np.sort(order), np.arange(len(order)))
    assert np.array_equal(np.lexsort((by_order[1], by_order[0])), np.arange(len(order)))
    assert all(np.all(np.diff(table.order) > 0) for table in tables)


@pytest.mark.parametrize("name", ["hangs", "overflow"])
def test_a_part_of_the_time(name: Name, tmp_path: Path) -> None:
    trace = Trace.open(sample(name, tmp_path))
    event = "dma_fence:dma_fence_init"
    whole = trace.read([event])
    time = whole.table(event).time
    for first, last in itertools.combinations((0, 1, len(time) // 3, len(time) // 2, -2, -1), 2):
        start, end = int(time[first]), int(time[last])
        part = trace.read([event], start, end)
        inside = (time >= start) & (time <= end)
        assert part.table(event).time.tolist() == time[inside].tolist()
        assert part.losses == tuple(
            loss for loss in whole.losses if loss.after_ns <= end and loss.before_ns >= start
        )


def test_what_is_not_asked_for_is_not_read(tmp_path: Path) -> None:
    trace = Trace.open(sample("hangs", tmp_path))
    found = trace.read(["dma_fence:dma_fence_emit", "i915:i915_request_add"])
    assert len(found.table("i915:i915_request_add")) == 0
    emitted = found.table("dma_fence:dma_fence_emit")
    assert (len(emitted), list(emitted.columns)) == (0, ["driver", "timeline", "context", "seqno"])
    with pytest.raises(UsageError, match="was not read"):
        found.table("dma_fence:dma_fence_init")


@pytest.mark.parametrize("seed", range(60))
def test_broken_pages(seed: int, tmp_path: Path) -> None:
    """Whatever is written over a page: no error, and both decoders keep and lose the same."""
    rng = random.Random(seed)
    shape = rng.choice(SHAPES)
    path = make(tmp_path, shape, seed, 6)
    for cpu in (0, 1):
        file = path / f"cpu{cpu}.raw"
        raw = bytearray(file.read_bytes())
        for _ in range(rng.choice((1, 3, 200))):
            at = rng.randrange(len(raw) // 4) * 4
            if rng.random() < 0.3:
                # The head of a page, where it hurts most.
                at = at // shape.page_size * shape.page_size + rng.choice((0, 4, 8, 16, 20))
            raw[at : at + 4] = rng.choice((rng.randbytes(4), b"\xff" * 4, bytes(4)))
        torn = rng.randrange(shape.page_size)
        file.write_bytes(raw[:-torn] if rng.random() < 0.5 else raw)
    assert_same(path)


def test_nothing_but_noise(tmp_path: Path) -> None:
    path = make(tmp_path, Shape(), 1, 1)
    rng = random.Random(3)
    for cpu in (0, 1):
        pages = [rng.randbytes(4096), bytes(4096), b"\xff" * 4096, b""]
        pages += [rng.randbytes(4) + bytes(4) + b"\xf0\x0f" + bytes(6) + rng.randbytes(4080)] * 4
        (path / f"cpu{cpu}.raw").write_bytes(b"".join(pages))
    assert assert_same(path).losses


def test_a_broken_page_is_a_loss(tmp_path: Path) -> None:
    path = sample("hangs", tmp_path)
    event = "dma_fence:dma_fence_init"
    trace = Trace.open(path)
    before = trace.read([event])
    assert before.losses == ()
    raw = bytearray((path / "cpu1.raw").read_bytes())
    # More bytes than a page has.
    raw[10 * 4096 + 8 : 10 * 4096 + 12] = (5000).to_bytes(4, "little")
    (path / "cpu1.raw").write_bytes(raw)
    after = trace.read([event])
    (loss,) = after.losses
    times = before.table(event).time[before.table(event).cpu == 1]
    missing = times[(times > loss.after_ns) & (times < loss.before_ns)]
    assert (loss.cpu, loss.count) == (1, None)
    assert len(before.table(event)) - len(after.table(event)) == len(missing) > 0


# -- what is no trace ----------------------------------------------------------------


def swap(path: Path, *places: int) -> None:
    """Turn round the commits of some pages of both CPUs."""
    for cpu in (0, 1):
        raw = bytearray((path / f"cpu{cpu}.raw").read_bytes())
        for page in places:
            at = page * 4096 + 8
            raw[at : at + 8] = (4000).to_bytes(8, "big")
        (path / f"cpu{cpu}.raw").write_bytes(raw)


def test_a_big_endian_trace_is_refused(tmp_path: Path) -> None:
    path = make(tmp_path, Shape(), 1, 3)
    swap(path, 0, 1, 2)
    with pytest.raises(LabError, match="big-endian"):
        Trace.open(path)


def test_one_corrupt_page_is_not_another_byte_order(tmp_path: Path) -> None:
    path = sample("hangs", tmp_path)
    swap(path, 0)
    assert assert_same(path).losses


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("meta.json", "{", "meta.json is broken"),
        ("meta.json", json.dumps({"page_size": 4096}), "meta.json is broken"),
        (
            "meta.json",
            json.dumps({"page_size": 0, "clock": "mono", "cpus": [0], "buffer_kb": 1}),
            "pages of 0 bytes",
        ),
        ("formats/header_page", "", "lacks timestamp"),
        ("formats/header_event", "type_len: 6 bits", "headers other than"),
        ("formats/test/plain", "name: plain", "no ID"),
        ("formats/test/plain", "ID: 1\nformat:\n\tfield:what?", "no field"),
    ],
)
def test_what_is_no_trace_says_so(file: str, text: str, says: str, tmp_path: Path) -> None:
    path = make(tmp_path, Shape(), 1, 1)
    (path / file).write_text(text)
    with pytest.raises(LabError, match=says):
        Trace.open(path)


def test_an_empty_directory_is_no_trace(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="no trace can be read"):
        Trace.open(tmp_path)


def test_a_cpu_without_a_file_has_no_records(tmp_path: Path) -> None:
    path = make(tmp_path, Shape(), 1, 2)
    (path / "cpu1.raw").unlink()
    (path / "cpu0.raw").write_bytes(b"")
    trace = Trace.open(path)
    assert [len(table) for table in trace.read(trace.events).tables.values()] == [0] * len(EVENTS)
    assert (trace.comms(), trace.stats()) == ({}, {})
