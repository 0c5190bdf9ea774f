"""`lab dmesg`: what people and programs are shown, and its exit status."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner, Result

from harness.cli import main
from harness.kernel.signature import VERSION
from harness.tests.reports import CIRCULAR, HUNG, WARN, printed

QUIET = b"[    1.000000] usb 1-1: new device\n[    2.000000] ACPI Warning: odd\n"
HANG = (
    b"[    3.000000] amdgpu 0000:03:00.0: amdgpu: ring gfx_0.0.0 timeout, signaled seq=1, emitted\n"
)


def dmesg(log: bytes, *args: str) -> Result:
    return CliRunner().invoke(main, ["dmesg", *args, "-"], input=log)


def report(lines: list[str], start: int = 5_000_000) -> bytes:
    return b"".join(printed(lines, "T7", start))


@pytest.mark.parametrize("log", [b"", QUIET, b"\xff\x00\n" * 9])
def test_a_quiet_log_is_no_failure(log: bytes) -> None:
    done = dmesg(log)
    assert (done.exit_code, "0 reports" in done.output) == (0, True)


def test_reports_of_one_bug_are_folded() -> None:
    done = dmesg(QUIET + report(WARN) + report(HUNG, 6_000_000) + report(WARN, 9_000_000))
    assert done.exit_code == 1
    assert "WARNING in sim_free (drivers/gpu/drm/sim.c)  x2" in done.output
    assert "sim_wait_idle" in done.output
    assert "3 reports, 2 different" in done.output


def test_json_is_one_object_a_line() -> None:
    done = dmesg(report(CIRCULAR) + HANG, "--json")
    first, *rest = [json.loads(line) for line in done.output.splitlines()]
    assert (first["type"], first["kind"], first["count"]) == ("report", "lockdep.circular", 1)
    assert (first["cpu"], first["comm"], first["kernel"]) == (1, "kworker/1:0", "6.12.0")
    assert first["signature"].startswith(f"{VERSION}-")
    assert [value["type"] for value in rest] == ["gpu"]


def test_stats_count_by_kind() -> None:
    (line,) = dmesg(report(WARN) + report(WARN), "--json", "--stats").output.splitlines()
    stats = json.loads(line)
    assert (stats["reports"], stats["different"], stats["kinds"]) == (2, 1, {"warning": 2})
    assert stats["lines"] == 2 * len(WARN)
    assert "warning" in dmesg(report(WARN), "--stats").output


def test_the_whole_text_on_request() -> None:
    assert "| Modules linked in: sim" in dmesg(report(WARN), "--full").output


def test_markup_in_a_log_is_text() -> None:
    lines = [WARN[0], "WARNING: CPU: 1 PID: 7 at fs/[bold].c:1 sim_[red]+0x1/0x2", *WARN[2:]]
    done = dmesg(report(lines), "--full")
    assert done.exception is None or isinstance(done.exception, SystemExit)
    assert "sim_[red]" in done.output


@pytest.mark.parametrize("esc", ["\x1b]0;owned\x07", "\x9b31m", "\x08\x08", "\x1b[2J"])
@pytest.mark.parametrize("options", [(), ("--full",)])
def test_no_control_character_of_a_log_reaches_the_terminal(
    esc: str, options: tuple[str, ...]
) -> None:
    spelt = "".join(f"\\x{byte:02x}" for byte in esc.encode())
    text = "BUG: odd {} thing\nCPU: 1 PID: 7 Comm: a{}b Not tainted 6.12.0 #1"
    plain = b"".join(
        f"[    1.000000] {line}\n".encode() for line in text.format(esc, esc).split("\n")
    )
    numbered = f"4,1,1,-;{text.format(spelt, spelt)}".replace("\n", "\\x0a").encode() + b"\n"
    for log in (plain, numbered):
        shown = dmesg(log, *options).output
        assert "BUG: odd" in shown
        assert not [c for c in shown if c != "\n" and not c.isprintable()]


def test_no_control_character_of_a_result_reaches_the_terminal() -> None:
    log = b"KTAP version 1\n1..1\nnot ok 1 a\x07\xc2\x9bb\n"
    assert "a\\x07\\x9bb" in dmesg(log, "--ktap").output


def test_numbers_are_called_what_they_count() -> None:
    assert "record 77" in dmesg(b"4,77,1,-;BUG: odd\n").output
    assert "line 1" in dmesg(b"[    1.000000] BUG: odd\n").output


def test_text_that_is_no_kernel_log_is_told_so() -> None:
    assert "looks like a kernel's" in dmesg(b"dear diary\n" * 99).output
    assert "looks like a kernel's" not in dmesg(QUIET).output
    assert "looks like a kernel's" not in dmesg(b"4,77,1,-;usb\n").output


@pytest.mark.parametrize("option", [(), ("--ktap",)])
@pytest.mark.parametrize("magic", [b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\x00"])
def test_a_compressed_log_is_refused(magic: bytes, option: tuple[str, ...]) -> None:
    done = dmesg(magic + b"\x00" * 20, *option)
    assert (done.exit_code, "compressed with" in done.output) == (2, True)
