"""Reports found, bounded and named; nothing that is whole is lost, nothing is made up."""

from __future__ import annotations

import io
import random
import tracemalloc
from typing import BinaryIO, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.kernel import formats, splats
from harness.kernel.scan import Boot, Lost, Scan
from harness.kernel.splats import Splat
from harness.lab import dmesg
from harness.tests.reports import KASAN, REPORTS, WARN, printed

KINDS = sorted(REPORTS)


def scanned(log: bytes) -> list[Splat]:
    return [item for item in Scan(io.BytesIO(log)) if isinstance(item, Splat)]


def log_of(*kinds: str) -> bytes:
    return b"".join(
        line
        for number, kind in enumerate(kinds)
        for line in printed(REPORTS[kind][0], f"T{number + 1}", 1_000_000 * (number + 1))
    )


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_found_whole_and_named(kind: str) -> None:
    lines, title = REPORTS[kind]
    (splat,) = scanned(log_of(kind))
    assert (splat.kind, splat.title, splat.severity) == (kind, title, "fail")
    first = lines.index(splat.lines[0])
    # what stands over a header, or closes with it, is no more than a rule
    assert all(set(line) == {"="} for line in lines[:first])
    assert splat.lines == lines[first:]


@pytest.mark.parametrize(
    ("kind", "functions"),
    [
        ("kasan", ("sim_read",)),
        ("rcu.stall", ("sim_ioctl", "sim_spin")),
        ("hung_task", ("sim_wait_idle",)),
    ],
)
def test_the_functions_it_is_about(kind: str, functions: tuple[str, ...]) -> None:
    assert scanned(log_of(kind))[0].functions == functions


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(KINDS), min_size=1, max_size=5), st.randoms())
def test_whole_reports_survive_any_interleaving(kinds: list[str], dice: random.Random) -> None:
    queues = [printed(REPORTS[kind][0], f"T{n}") for n, kind in enumerate(kinds)]
    queues.append(printed([f"usb 1-{n}: new device" for n in range(6)], "C3"))
    mixed = b""
    while any(queues):
        queue = dice.choice([queue for queue in queues if queue])
        mixed += queue.pop(0)
    found = sorted((splat.kind, splat.title) for splat in scanned(mixed))
    assert found == sorted((kind, REPORTS[kind][1]) for kind in kinds)


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=4096))
def test_no_bytes_make_it_raise(noise: bytes) -> None:
    assert all(splat.title for splat in scanned(noise))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(KINDS), max_size=3), st.integers(0, 3000), st.binary(max_size=64))
def test_a_cut_anywhere_invents_nothing(kinds: list[str], cut: int, noise: bytes) -> None:
    log = log_of(*kinds)[:cut] + noise
    # one may be cut within its first lines, and each line of noise might say anything
    assert len(scanned(log)) <= len(kinds) + noise.count(b"\n") + 1


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(KINDS), st.binary(max_size=80)), max_size=6))
def test_the_fast_scan_finds_what_reading_it_all_finds(pieces: list[str | bytes]) -> None:
    log = b"".join(
        b"".join(printed(REPORTS[p][0], "T1", n * 9_000_000)) if isinstance(p, str) else p + b"\n"
        for n, p in enumerate(pieces)
    )
    slow = splats.find(formats.read(log))
    fast = sorted(scanned(log), key=lambda splat: splat.place)
    assert [(s.kind, s.text) for s in fast] == [(s.kind, s.text) for s in slow]


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1])
def test_long_lines_and_chunk_borders(size: int) -> None:
    log = b"x" * size + b"\n" + log_of("warning") + b"y" * size
    assert [splat.kind for splat in scanned(log)] == ["warning"]


def test_a_report_over_the_border_of_two_chunks() -> None:
    for shift in range(0, 900, 37):
        log = b"z" * ((1 << 20) - shift) + b"\n" + log_of("kasan")
        assert [splat.title for splat in scanned(log)] == [REPORTS["kasan"][1]]


def test_two_kernels_one_after_the_other() -> None:
    banner = b"[    0.000000][    T0] Linux version 6.13.0 (gcc)\r\n"
    log = log_of("oops.null")[:400] + banner + log_of("warning")
    assert [splat.kind for splat in scanned(log)] == ["oops.null", "warning"]
    boots = [item.release for item in Scan(io.BytesIO(log)) if isinstance(item, Boot)]
    assert boots == ["6.13.0"]


def test_missing_numbers_and_dropped_messages_are_told() -> None:
    log = b"4,1,10,-;a\n4,2,11,-;b\n4,7,12,-;c\n4,8,13,-;** 3 printk messages dropped **\n"
    lost = [(item.seq, item.records) for item in Scan(io.BytesIO(log)) if isinstance(item, Lost)]
    assert lost == [(3, 4), (8, 3)]


def test_the_stack_of_a_panic_on_warn_is_the_warnings() -> None:
    lines = [
        *WARN[:2],
        "Kernel panic - not syncing: panic_on_warn set ...",
        "Call Trace:",
        " dump_stack+0x1/0x2",
        " panic+0x1/0x2",
        " sim_free+0x1/0x2",
    ]
    (splat,) = scanned(b"".join(printed(lines)))
    assert (splat.kind, splat.title) == ("warning", REPORTS["warning"][1])


def test_an_nmi_that_a_stall_asked_for_is_in_its_report() -> None:
    stall = printed(REPORTS["rcu.stall"][0][:2], "C0")
    answer = ["NMI backtrace for cpu 1", "RIP: 0010:sim_spin+0x1/0x2", "Call Trace:"]
    log = stall + printed([*answer, " sim_ioctl+0x1/0x2", " vfs_ioctl+0x1/0x2"], "C1", 1_000_100)
    (splat,) = scanned(b"".join(log))
    assert splat.title == REPORTS["rcu.stall"][1]


def test_a_flood_is_folded_in_bounded_memory() -> None:
    times = 3_000

    class Flood(io.RawIOBase):
        left = times

        def read(self, size: int = -1) -> bytes:
            if not self.left:
                return b""
            self.left -= 1
            return b"".join(printed(WARN, "T7", 1_000_000 * (times - self.left)))

    tracemalloc.start()
    found = dmesg.read(cast("BinaryIO", Flood()))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    (group,) = found.failures
    assert (group.count, found.reports) == (times, times)
    assert peak < 20 << 20


def test_signatures_do_not_care_for_boots_and_builds() -> None:
    other = [
        line.replace("+0x214/0x220", ".isra.3+0x99/0x300")
        .replace("ffff8881143a9810", "ffff88ab00000000")
        .replace("bash/5320", "Xorg/1")
        .replace("CPU: 1 PID: 7", "CPU: 63 PID: 31000")
        .replace("Not tainted 6.12.0 #1", "Tainted: G        W          6.6.99 #7")
        for line in KASAN
    ]
    one, two = scanned(log_of("kasan")) + scanned(b"".join(printed(other, "C5", 77_000_000)))
    assert one.signature == two.signature
    assert len({scanned(log_of(kind))[0].signature for kind in KINDS}) == len(KINDS)
