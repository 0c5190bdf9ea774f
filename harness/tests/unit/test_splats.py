"""Reports found, bounded and named; nothing that is whole is lost, nothing is made up."""

from __future__ import annotations

import io
import random
import tracemalloc
from collections import Counter
from typing import BinaryIO, cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from harness.errors import UsageError
from harness.kernel import commits, formats, kinds, ktap, records, resets, splats
from harness.kernel.records import Record
from harness.kernel.scan import Again, Boot, Lost, Scan
from harness.kernel.splats import Splat
from harness.lab import dmesg
from harness.tests.reports import KASAN, REPORTS, WARN, printed

KINDS = sorted(REPORTS)
PACKED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\x00", b"BZh")
# Bytes that say nothing of time or numbers, so that no line is of another form than the rest.
NOISE = st.binary(max_size=80).map(lambda noise: noise.translate(None, b"0123456789"))


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


# What logs are made of: hints, prefixes, numbers that are too long, and bytes of any sort.
FRAGMENTS = st.one_of(
    st.sampled_from(
        [
            *(b"BUG: ", b"WARNING: ", b"INFO: task ", b"Oops: ", b"GPU HANG", b"reset ", b"\n"),
            *(b"CPU: ", b"PID: ", b"at a.c:1 f+0x1/0x2", b"------------[ cut here ]------------"),
            *(
                b"6,",
                b",-;",
                b",c;",
                b",ncfrag=",
                b"0/",
                b"[ ",
                b".000000] ",
                b"] ",
                b"<4>",
                b"\\x1b",
            ),
            *(
                b"** ",
                b" printk messages dropped",
                b"Linux version 6",
                b"pid ",
                b" thread ",
                b" -> #",
            ),
            *(
                b"possible circular locking dependency detected\n",
                b"ring gfx timeout, signaled seq=",
            ),
            *(b"KTAP version 1\n", b"1..", b"not ok ", b"# Subtest: x\n", b"9" * 30, b"1", b"2"),
            *(
                b" (lock#",
                b"){+.+.}-{0:0}, at: f+0x1/0x2\n",
                b"Process x pid ",
                b" NMI backtrace for cpu ",
            ),
        ]
    ),
    st.integers(0, 10**40).map(lambda number: str(number).encode()),
    st.just(b"9" * 5000),
    st.binary(max_size=20),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(FRAGMENTS, max_size=60))
@example([b"BZh"])
def test_no_bytes_make_it_raise(pieces: list[bytes]) -> None:
    noise = b"".join(pieces)
    if noise.startswith(PACKED):
        with pytest.raises(UsageError, match="compressed"):
            dmesg.read(io.BytesIO(noise))
        noise = b"\n" + noise
    reading = dmesg.read(io.BytesIO(noise))
    told = [dmesg.line(value) for value in dmesg.objects(reading)]
    assert len(told) == len(reading.groups) - _notes(reading) + len(reading.events)
    assert dmesg.line(dmesg.statistics(reading)).startswith('{"type":"stats"')
    read = list(formats.read(noise))
    events = list(resets.trail(read))
    assert len(resets.recoveries(events)) <= len(events)
    assert all(test.path for test in ktap.parse(line for r in read for line in r.lines()))


def _notes(reading: dmesg.Reading) -> int:
    return sum(group.splat.severity != "fail" for group in reading.groups.values())


@pytest.mark.parametrize(
    "log",
    [
        b"4,99999999999999999999999,1,-;BUG: foo\n",
        b"6,1,1,-;a\n6,99999999999999999999999,1,-;BUG: x\n6,2,1,-;y\n",
        b"[" + b"9" * 5000 + b".000000] BUG: x\n",
        b"6,1,1,-,ncfrag=0/" + b"9" * 5000 + b";BUG: x\n",
        b"6,1,1,-;** " + b"9" * 5000 + b" printk messages dropped **\n",
    ],
)
def test_a_number_of_any_length_is_only_text(log: bytes) -> None:
    whole = log + log_of("warning")
    assert "warning" in [splat.kind for splat in scanned(whole)]
    assert len(list(records.parse(log))) <= 3


def test_a_hint_in_a_long_line_is_looked_at_as_far_as_printk_writes() -> None:
    # Without a bound this does not end within the life of the machine.
    found = list(Scan(io.BytesIO(b"GPU HANG " + b"abcdefgh" * 130_000 + b"\n" + log_of("warning"))))
    assert [item.kind for item in found if isinstance(item, Splat)] == ["warning"]


def test_so_many_reports_are_open_at_once_and_the_quiet_one_is_closed() -> None:
    finder = splats.Finder()
    done = []
    for number in range(splats.MOST_OPEN + 1):
        rule = Record(number, 1_000_000, 4, 0, f"T{number}", "------------[ cut here ]------------")
        done += finder.feed(rule)
        if number == 1:
            done += finder.feed(Record(0, 1_000_000, 4, 0, "T0", WARN[1]))
    assert [splat.records[0].caller for splat in done] == ["T1"]
    assert len(finder.flush()) == splats.MOST_OPEN


def test_headers_of_several_bugs_are_as_many_reports() -> None:
    heads = [f"WARNING: CPU: 0 PID: 1 at a/{c}.c:1 {c}_fn+0x1/0x2" for c in "abcdef"]
    assert len(scanned(b"".join(printed(heads)))) == len(heads)


def test_a_page_fault_of_another_cpu_is_no_line_of_a_warning() -> None:
    lines = [line.replace("[    T7] ", "") for line in (*WARN[:2], *REPORTS["oops.null"][0])]
    plain = [f"[    1.{n:06d}] {line}\n".encode() for n, line in enumerate(lines)]
    assert [splat.kind for splat in scanned(b"".join(plain))] == ["warning", "oops.null"]


def test_a_clock_that_goes_back_ends_reports_after_silence_by_the_new_one() -> None:
    log = printed(WARN[:2], "T7", 900_000_000)
    log += [b"".join(printed([f"usb 1-{n}: new"], "T9", n * 3_000_000)) for n in (1, 2)]
    log += printed(["Modules linked in: late"], "T7", 10_000_000)
    (splat,) = scanned(b"".join(log))
    assert splat.lines == WARN[:2]


def test_a_stall_with_answers_of_other_cpus_is_one_report() -> None:
    log = printed(REPORTS["rcu.stall"][0][:2], "C0")
    log += printed(["NMI backtrace for cpu 1", "RIP: 0010:sim_spin+0x1/0x2"], "C1", 1_000_100)
    log += printed(["usb 1-1: new"], "T9", 60_000_000)
    log += printed(["usb 1-2: new"], "T9", 61_000_000)
    assert len(scanned(b"".join(log))) == 1


def named(text: str) -> Splat:
    (splat,) = scanned(f"[    1.000000] {text}\n".encode())
    return splat


def test_commits_not_done_in_time_are_one_bug_a_driver_and_step() -> None:
    head = "i915 0000:00:02.0: [drm] *ERROR* [CRTC:51:pipe A] "
    one = named(f"{head}flip_done timed out")
    assert one.title == "flip_done timed out on pipe A (i915)"
    assert (
        one.signature
        == named(f"{head.replace('51:pipe A', '7:pipe B')}flip_done timed out").signature
    )
    others = [
        named(f"{head}{step} timed out") for step in ("hw_done", "cleanup_done", "commit wait")
    ]
    assert {splat.kind for splat in (one, *others)} == {"flip_timeout"}
    assert len({splat.signature for splat in (one, *others)}) == 4
    late = commits.find(record for splat in others for record in splat.records)
    assert [timeout.step for timeout in late] == ["hw_done", "cleanup_done", "commit wait"]


def test_a_bad_page_keeps_its_name() -> None:
    assert named("BUG: Bad page state in process Xorg  pfn:12345").title == "BUG: Bad page state"


@pytest.mark.parametrize("where", ["trace_clock_x86_tsc", "delay_tsc", "ktime_get", "sched_clock"])
def test_a_hard_lockup_is_not_named_by_the_loop_it_was_caught_in(where: str) -> None:
    lines = [
        "NMI watchdog: Watchdog detected hard LOCKUP on cpu 0",
        "CPU: 0 PID: 7 Comm: kworker/0:1 Not tainted 6.12.0 #1",
        f"RIP: 0010:{where}+0x3e/0x79",
        "Call Trace:",
        " <TASK>",
        " sim_recover+0x71/0x332 [sim]",
        " sim_timedout+0x222/0x25b [sim]",
        # a return address behind a function's last call, as one at another's end
        f" {where}+0xd/0xd",
        " worker_thread+0x136/0x1bc",
        " ret_from_fork_asm+0x11/0x20",
        " </TASK>",
    ]
    (splat,) = scanned(b"".join(printed(lines)))
    assert splat.functions == ("sim_timedout", "sim_recover")


def test_a_soft_lockup_is_named_by_what_ran_whatever_cut_into_it() -> None:
    lines = [
        "watchdog: BUG: soft lockup - CPU#1 stuck for 29s! [modprobe:155]",
        "CPU: 1 UID: 0 PID: 155 Comm: modprobe Not tainted 6.12.0 #1",
        "RIP: 0010:handle_softirqs+0x8a/0x2e4",
        "Call Trace:",
        " <IRQ>",
        " __irq_exit_rcu+0x4b/0x84",
        " sysvec_irq_work+0x5b/0x70",
        " </IRQ>",
        " <TASK>",
        " asm_sysvec_irq_work+0x16/0x20",
        "RIP: 0010:_raw_spin_unlock_irqrestore+0x31/0x34",
        " dma_fence_signal+0x3e/0x57",
        " sim_signal_all+0x92/0xb5 [sim]",
        " sim_ioctl+0x6f/0x85 [sim]",
        " __x64_sys_ioctl+0x4a/0x64",
        " do_syscall_64+0x6a/0xc5",
        " </TASK>",
    ]
    cut = scanned(b"".join(printed(lines)))[0]
    between = [line for n, line in enumerate(lines) if not 1 < n < 11]
    uncut = scanned(
        b"".join(printed([*between[:2], "RIP: 0010:dma_fence_signal+0x1/0x57", *between[2:]]))
    )[0]
    assert cut.title == uncut.title == "BUG: soft lockup in sim_ioctl"
    assert cut.signature == uncut.signature


def test_a_task_does_not_hang_in_a_clock() -> None:
    lines = [
        "INFO: task dmabuf/wait:163 blocked for more than 120 seconds.",
        "task:dmabuf/wait state:D stack:0 pid:163 tgid:163 ppid:2 flags:0x00004000",
        "Call Trace:",
        " <TASK>",
        " __schedule+0x613/0x64e",
        " schedule+0x3e/0x56",
        " dma_fence_default_wait+0x122/0x1b6",
        " dma_fence_wait_timeout+0xdb/0x15f",
        " trace_clock_x86_tsc+0xd/0xd",
        " kthread+0xe9/0xf1",
        " </TASK>",
    ]
    (splat,) = scanned(b"".join(printed(lines)))
    assert splat.title == "INFO: task hung in dma_fence_default_wait"


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(KINDS), max_size=3), st.integers(0, 3000), st.binary(max_size=64))
@example([], 0, b"BZh")
def test_a_cut_anywhere_invents_nothing(kinds: list[str], cut: int, noise: bytes) -> None:
    whole, _, torn = (b"\n" + log_of(*kinds)[:cut]).rpartition(b"\n")
    # whatever follows the last whole line might say anything
    torn += noise
    assert len(scanned(whole + b"\n" + torn)) <= len(kinds) + len(list(formats.read(torn)))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(KINDS), NOISE), max_size=6))
@example([b"BZh"])
def test_the_fast_scan_finds_what_reading_it_all_finds(pieces: list[str | bytes]) -> None:
    log = b"\n" + b"".join(
        b"".join(printed(REPORTS[p][0], "T1", n * 9_000_000)) if isinstance(p, str) else p + b"\n"
        for n, p in enumerate(pieces)
    )
    slow = splats.find(formats.read(log))
    fast = sorted(scanned(log), key=lambda splat: splat.place)
    assert [(s.kind, s.text) for s in fast] == [(s.kind, s.text) for s in slow]


# A header as its row describes it, built only once a row.
HEADS = {n: st.from_regex(row.pattern) for n, row in enumerate(kinds.KINDS)}


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(range(len(kinds.KINDS))).flatmap(HEADS.__getitem__))
def test_whatever_starts_a_report_holds_a_word_that_the_scan_looks_for(head: str) -> None:
    line = head.split("\n")[0]
    row = kinds.header(line)
    assert row is None or any(hint in line for hint in kinds.HINTS)


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


def counted(log: bytes) -> Counter[str]:
    """How often each signature is in a log that is read as a user's is."""
    groups = dmesg.read(io.BytesIO(log)).groups
    return Counter({signature: group.count for signature, group in groups.items()})


def retold(kind: str, dice: random.Random) -> list[str]:
    """A report with other numbers, as another boot or another minute has them."""
    other = {
        "ffff8881143a9810": f"{dice.randrange(1 << 64):016x}",
        "PID: 7": f"PID: {dice.randrange(9999)}",
    }
    other["CPU: 1 "] = f"CPU: {dice.randrange(64)} "
    lines = "\n".join(REPORTS[kind][0])
    for old, new in other.items():
        lines = lines.replace(old, new)
    return lines.split("\n")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(KINDS), st.integers(1, 12)), min_size=1, max_size=8),
    st.sampled_from(["", "T7", "own"]),
    st.sampled_from([10, 40, 3_000_000]),
    st.randoms(use_true_random=False),
)
def test_a_flood_is_counted_as_if_it_were_read(
    runs: list[tuple[str, int]], caller: str, pause: int, dice: random.Random
) -> None:
    order = [kind for kind, times in runs for _ in range(times)]
    if dice.random() < 0.5:
        dice.shuffle(order)
    log, now = b"", 1_000_000
    for number, kind in enumerate(order):
        lines = retold(kind, dice)
        log += b"".join(printed(lines, f"T{number}" if caller == "own" else caller, now))
        now += 10 * len(lines) + pause
        if dice.random() < 0.1:
            log += b"".join(printed([f"usb 1-{number}: new device"], caller or "T1", now))
    if not caller:
        log = log.replace(b"[      ] ", b"")
    assert counted(log) == Counter(splat.signature for splat in splats.find(formats.read(log)))


def test_a_flood_is_folded_in_bounded_memory() -> None:
    some = b"".join(printed(WARN, "T7")) * 500

    class Flood(io.RawIOBase):
        left = 60

        def read(self, size: int = -1) -> bytes:
            self.left -= 1
            return some if self.left >= 0 else b""

    tracemalloc.start()
    found = dmesg.read(cast("BinaryIO", Flood()))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    (group,) = found.failures
    assert (group.count, found.reports) == (30_000, 30_000)
    assert (group.splat.records[0].seq, group.last) == (1, 30_000 * len(WARN) - len(WARN) + 1)
    assert found.lines == 30_000 * len(WARN)
    assert peak < 20 << 20


@pytest.mark.parametrize("caller", ["T7", "own"])
@pytest.mark.parametrize("kind", ["warning", "oops.null", "kasan", "hung_task", "fifo_underrun"])
def test_most_of_a_flood_is_not_read(kind: str, caller: str) -> None:
    lines = REPORTS.get(kind, (["i915 0000:00:02.0: [drm] *ERROR* CPU pipe A FIFO underrun"], ""))[
        0
    ]
    log = b"".join(
        b"".join(printed(lines, f"T{n}" if caller == "own" else caller, n * 1000))
        for n in range(50)
    )
    items = list(Scan(io.BytesIO(log)))
    again = [item for item in items if isinstance(item, Again)]
    read = [item for item in items if isinstance(item, Splat)]
    assert sum(item.times for item in again) + len(read) == 50
    # what is left open by its last line, and shares no caller with the next, is read
    assert len(read) < 10 or (kind == "oops.null" and caller == "own")


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
