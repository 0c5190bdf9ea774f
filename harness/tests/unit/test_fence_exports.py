"""What leaves the ledger: the Perfetto trace, the picture, CSV and JSON."""

from __future__ import annotations

import csv
import io
import random
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import defaultdict
from pathlib import Path
from typing import Any

import msgspec
import pytest
from perfetto.protos.perfetto.trace import perfetto_trace_pb2  # type: ignore[import-untyped]

from harness.evidence.jobs import JobLine
from harness.fence import lanes, perfetto, sheet, timeline
from harness.fence.fences import STATES, Role, State
from harness.fence.ledger import EVENTS, Ledger, build
from harness.fence.trace import Trace
from harness.tests.inner import ROOT
from harness.tests.tape import SECOND, Tape
from harness.tests.traces import sample

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "</text><script>alert(1)</script>&\x07\"'"


@pytest.fixture(scope="module")
def hangs(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    """Three engines hung, as recorded."""
    trace = Trace.open(sample("hangs", tmp_path_factory.mktemp("trace")))
    found = trace.read(EVENTS)
    first = min(int(table.time[0]) for table in found.tables.values() if len(table))
    return build(found, first, None, late_ns=5 * SECOND, comms=trace.comms())


@pytest.fixture(scope="module")
def overflow(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    """Most of it lost."""
    trace = Trace.open(sample("overflow", tmp_path_factory.mktemp("trace")))
    found = trace.read(EVENTS)
    first = min(loss.before_ns for loss in found.losses)
    return build(found, first, None, late_ns=5 * SECOND, comms=trace.comms())


def hostile() -> Ledger:
    """Names as a process may choose them, a fence that never ends, and a reset that does not."""
    tape = Tape()
    tape.life(7, 1, 1.0, None, driver="=cmd()", timeline=HOSTILE)
    tape.life(7, 2, 2.0, 3.0, driver="=cmd()", timeline=HOSTILE)
    tape.fence("wait_start", 2.5, 7, 1, pid=9, driver="=cmd()", timeline=HOSTILE)
    tape.put("lab:tdr_begin", 2.6, 5)
    jobs = (
        JobLine(
            client=9, job=1, engine=HOSTILE, kind="hang", context=7, seqno=1, submitted_ns=SECOND
        ),
    )
    ledger = tape.ledger(4.0, jobs=jobs)
    ledger.comms = {9: HOSTILE, 5: HOSTILE}
    return ledger


# -- lanes ---------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_spans_on_one_level_do_not_overlap(seed: int) -> None:
    rng = random.Random(seed)
    spans = sorted((b, b + rng.randrange(30)) for b in (rng.randrange(200) for _ in range(80)))
    levels = lanes.stacked(*(list(edge) for edge in zip(*spans, strict=True)))
    by_level: dict[int, int] = {}
    for (begin, end), level in zip(spans, levels, strict=True):
        assert by_level.get(level, 0) <= begin
        by_level[level] = end
    together = max(sum(b <= at < e for b, e in spans) for at in range(300))
    assert together <= max(levels) + 1 <= together + sum(b == e for b, e in spans)


def test_every_fence_has_one_lane(hangs: Ledger) -> None:
    found = lanes.fence_lanes(hangs)
    assert sorted(row for lane in found for row in lane.rows.tolist()) == list(
        range(len(hangs.fences))
    )
    for lane in found:
        fences = [hangs.fences[row] for row in lane.rows.tolist()]
        assert {(f.driver, f.timeline, f.role) for f in fences} == {
            (lane.driver, lane.timeline, lane.role)
        }
    rings = [lane.timeline for lane in found if lane.role is Role.FINISHED]
    assert rings == ["gfx_0.0.0", "comp_1.0.0", "comp_1.1.0"]


# -- Perfetto --------------------------------------------------------------------------


def packets(ledger: Ledger) -> Any:
    file = io.BytesIO()
    perfetto.write(ledger, file, "a test")
    trace = perfetto_trace_pb2.Trace()
    trace.ParseFromString(file.getvalue())
    # What the schema does not know would have been kept aside.
    assert trace.SerializeToString() == file.getvalue()
    return trace.packet


def slices(found: Any) -> dict[str, list[tuple[int, int, str]]]:
    """(begin, end, name) by the names of their tracks, each track well formed."""
    tracks = {p.track_descriptor.uuid: p.track_descriptor for p in found if p.track_descriptor.uuid}
    running: dict[int, tuple[int, str]] = {}
    latest: dict[int, int] = defaultdict(int)
    done = defaultdict(list)
    for packet in found:
        assert packet.trusted_packet_sequence_id
        if not packet.HasField("track_event"):
            continue
        event, time = packet.track_event, packet.timestamp
        track = event.track_uuid
        if event.type != event.TYPE_INSTANT:
            assert latest[track] <= time, "a track's slices are in order"
            latest[track] = time
        if event.type == event.TYPE_SLICE_BEGIN:
            assert track not in running, "slices of one track do not overlap"
            running[track] = time, event.name
        elif event.type == event.TYPE_SLICE_END:
            begin, name = running.pop(track)
            done[tracks[track].name].append((begin, time, name))
        else:
            assert event.type == event.TYPE_INSTANT
            assert track in tracks
    assert not running, "each slice ends"
    (root,) = [track for track in tracks.values() if not track.parent_uuid]
    assert root.name == "a test"
    assert all(t.parent_uuid in tracks for t in tracks.values() if t is not root)
    return done


def test_a_perfetto_trace_has_every_fence_wait_and_reset(hangs: Ledger) -> None:
    found = packets(hangs)
    assert found[0].sequence_flags == 1
    by_track = slices(found)
    for lane in lanes.fence_lanes(hangs):
        shown = by_track[lane.name]
        expected = [hangs.fences[row] for row in lane.rows.tolist()]
        assert sorted(name for *_, name in shown) == sorted(
            f"{f.context}:{f.seqno} {f.state}" for f in expected
        )
        assert sorted((b, e) for b, e, _ in shown) == sorted(
            zip(lane.begin.tolist(), lane.end.tolist(), strict=True)
        )
    assert [(b, e) for b, e, _ in sorted(by_track["recovery"])] == [
        (run.begin, run.end) for run in hangs.recoveries
    ]
    waits = [span for lane in lanes.wait_lanes(hangs) for span in by_track[lane.name]]
    assert sorted((b, e) for b, e, _ in waits) == sorted((w.begin, w.end) for w in hangs.waits)
    instants = [p.track_event.name for p in found if p.track_event.type == 3]
    fences = list(hangs.fences)
    assert sum(name.endswith("signalled") for name in instants) == sum(
        f.signaled is not None for f in fences
    )
    assert sum(name.endswith("destroyed") for name in instants) == sum(
        f.destroyed is not None for f in fences
    )


def test_a_perfetto_trace_shows_what_was_lost(overflow: Ledger) -> None:
    by_track = slices(packets(overflow))
    for cpu in (0, 1):
        lost = [loss for loss in overflow.losses if loss.cpu == cpu]
        assert len(lost) > 1
        assert len(by_track[f"events lost on CPU {cpu}"]) == len(lost)


def test_a_perfetto_trace_of_hostile_names() -> None:
    by_track = slices(packets(hostile()))
    assert any(HOSTILE in name for name in by_track)
    assert [span[2] for span in by_track["recovery"]] == ["reset, never ended"]


def test_an_empty_ledger_can_be_exported() -> None:
    ledger = Tape().ledger(1.0)
    assert slices(packets(ledger)) == {}
    assert ET.fromstring(timeline.render(ledger)).tag == f"{SVG}svg"
    assert msgspec.json.decode(sheet.to_json(ledger))["fences"] == []


def test_writing_a_perfetto_trace_reaches_for_no_network() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, importlib\n"
            "importlib.import_module('perfetto.protos.perfetto.trace.perfetto_trace_pb2')\n"
            "print([m for m in ('socket', 'urllib.request', 'http.client') if m in sys.modules])",
        ],
        cwd=ROOT,
        text=True,
        capture_output=True,
        check=True,
    )
    assert done.stdout == "[]\n"


# -- the picture -----------------------------------------------------------------------


def drawn(svg: str) -> ET.Element:
    root = ET.fromstring(svg)
    assert root.tag == f"{SVG}svg"
    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= {
        *("svg", "title", "style", "defs", "pattern", "path", "rect", "text")
    }
    # Self-contained: nothing is fetched, nothing runs.
    assert not any("href" in key or key.startswith("on") for e in root.iter() for key in e.attrib)
    height = float(root.attrib["height"])
    for rect in root.iter(f"{SVG}rect"):
        x, y = float(rect.get("x", 0)), float(rect.get("y", 0))
        assert 0 <= x <= 1000
        assert x + float(rect.attrib["width"]) <= 1004
        assert 0 <= y <= y + float(rect.attrib["height"]) <= height
    return root


def bars(root: ET.Element, kind: str) -> list[str]:
    """What the bars of a class say."""
    found = (
        rect.find(f"{SVG}title") for rect in root.iter(f"{SVG}rect") if rect.get("class") == kind
    )
    return [title.text or "" for title in found if title is not None]


def test_the_picture_of_hangs(hangs: Ledger) -> None:
    root = drawn(timeline.render(hangs, "test_recovers[gfx]"))
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert {"gfx_0.0.0: finished", "gfx_0.0.0: hardware", "stormy 0 (sw_sync)"} <= {*texts}
    assert len(bars(root, "reset")) == 3
    # Two fences of each hung job: the scheduler's and the driver's.
    forced = bars(root, "forced")
    assert len(forced) == 6
    assert all(bar.startswith("forced: ") and " for 20" in bar for bar in forced)
    assert len(bars(root, "slept")) == len(hangs.waits)


def test_the_picture_of_losses(overflow: Ledger) -> None:
    root = drawn(timeline.render(overflow))
    assert bars(root, "lost")
    assert bars(root, "unknown")


def test_names_are_escaped_in_the_picture() -> None:
    svg = timeline.render(hostile(), HOSTILE)
    root = drawn(svg)
    assert "<script" not in svg
    assert "\x07" not in svg
    assert root.findtext(f"{SVG}title", "").startswith("</text><script>alert(1)</script>&\ufffd")
    assert len(bars(root, State.PENDING.value)) == 1
    assert len(bars(root, "error")) == 1


def test_the_picture_is_bounded_and_keeps_what_went_wrong() -> None:
    tape = Tape()
    rng = random.Random(1)
    for nth in range(3000):
        born = rng.random() * 10
        tape.life(nth % 90 + 1, nth, born, born + rng.random() / 100, timeline=f"ring{nth % 90}")
    tape.life(500, 1, 9.99, None, timeline="the guilty one")
    svg = timeline.render(tape.ledger(10.0))
    root = drawn(svg)
    assert "67 more, " in svg
    assert "the guilty one (amdgpu)" in svg
    assert len(bars(root, "pending")) == 1
    assert float(root.attrib["height"]) < 700
    assert len(svg) < 300_000


def test_a_long_legend_goes_on_in_a_second_row() -> None:
    tape = Tape()
    for nth in range(len(STATES) * 100):
        tape.life(1, nth + 1, 1.0 + nth / 100, 1.1 + nth / 100, timeline=f"ring{nth % 3}")
    tape.put("lab:tdr_begin", 5.0, 40)
    tape.put("lab:tdr_end", 5.5, 40)
    for pid, intr, result in ((9, 1, 3), (10, 0, 3), (11, 1, -512)):
        tape.put("lab:wait_begin", 2.5, pid, intr=intr)
        tape.fence("wait_start", 2.5, 1, 1, pid=pid)
        tape.fence("wait_end", 3.5, 1, 1, pid=pid)
        tape.put("lab:wait_end", 3.5, pid, ret=result)
    tape.lose(0.1, 0.2, 3)
    ledger = tape.ledger(13.0)
    ledger.fences.state[:] = [nth % len(STATES) for nth in range(len(ledger.fences))]
    root = drawn(timeline.render(ledger))
    shown = [rect for rect in root.iter(f"{SVG}rect") if rect.get("height") == "10"]
    assert {int(rect.attrib["y"]) for rect in shown} == {
        min(int(rect.attrib["y"]) for rect in shown) + 16 * row for row in (0, 1)
    }


# -- data ------------------------------------------------------------------------------


def test_csv_has_a_line_for_each_fence(hangs: Ledger) -> None:
    file = io.StringIO(newline="")
    sheet.write_csv(hangs, file)
    file.seek(0)
    lines = list(csv.DictReader(file))
    assert len(lines) == len(hangs.fences)
    for line, fence in zip(lines, hangs.fences, strict=True):
        assert (int(line["context"]), int(line["seqno"])) == (fence.context, fence.seqno)
        assert (line["state"], line["timeline"]) == (fence.state, fence.timeline)
        assert line["signaled"] == ("" if fence.signaled is None else str(fence.signaled))


def test_csv_holds_no_formula() -> None:
    file = io.StringIO(newline="")
    sheet.write_csv(hostile(), file)
    file.seek(0)
    assert {line["driver"] for line in csv.DictReader(file)} == {"'=cmd()"}


def test_json_has_all_of_it(hangs: Ledger, overflow: Ledger) -> None:
    for ledger in (hangs, overflow, hostile()):
        found = msgspec.json.decode(sheet.to_json(ledger))
        assert found["counts"] == ledger.counts()
        assert [f["state"] for f in found["fences"]] == [f.state for f in ledger.fences]
        for name in ("waits", "recoveries", "losses", "jobs"):
            assert len(found[name]) == len(getattr(ledger, name))
        assert (found["first"], found["last"]) == (ledger.first, ledger.last)


def test_an_export_is_the_same_each_time(hangs: Ledger, tmp_path: Path) -> None:
    trace = Trace.open(sample("hangs", tmp_path))
    again = build(trace.read(EVENTS), hangs.first, None, late_ns=5 * SECOND, comms=trace.comms())
    assert sheet.to_json(again) == sheet.to_json(hangs)
    assert timeline.render(again) == timeline.render(hangs)


def test_a_wait_that_begins_with_the_last_event_is_drawn() -> None:
    # A machine that dies leaves such traces; its end is not known, so the last event is the end.
    tape = Tape()
    tape.job(20, 1, (4, 1), 1.0, None)
    tape.put("lab:wait_begin", 2.0, 11, intr=1)
    tape.fence("wait_start", 2.0, 21, 1, driver="drm_sched", pid=11)
    assert "[11]" in timeline.render(tape.ledger(2.0))
