"""netconsole's receiver over real UDP, and the agent's side of it on a configfs of files."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.agent.commands import Commands
from harness.agent.errors import AgentError
from harness.agent.netconsole import Netconsole as Sender
from harness.agent.netconsole import Route
from harness.errors import LabError
from harness.kernel import formats
from harness.link.netconsole import Netconsole

PATIENCE_S = 60.0
# 127.0.0.0/8 is all this host's, so a stranger can be one too.
STRANGER = "127.0.0.2"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "netconsole.log"


@pytest.fixture
def heard(log: Path) -> Iterator[Netconsole]:
    with log.open("ab", buffering=0) as out:
        made = Netconsole(out.write, name="box", sources=["127.0.0.1"])
        made.start()
        yield made
        made.stop()


def _say(to: Netconsole, *datagrams: bytes, source: str = "127.0.0.1") -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as kernel:
        kernel.bind((source, 0))
        for data in datagrams:
            kernel.sendto(data, ("127.0.0.1", to.port))


def test_plain_and_extended_records_lie_as_they_came(heard: Netconsole, log: Path) -> None:
    said = [b"[    1.0] plain, and cut in", b" two\n", b"6,340,5,-;one\n SUBSYSTEM=pci\n"]
    _say(heard, *said)
    heard.stop()
    assert log.read_bytes() == b"".join(said)
    assert heard.datagrams == 3
    assert heard.remarks() == []


def test_pieces_of_a_record_become_lines_and_that_record(heard: Netconsole, log: Path) -> None:
    _say(heard, b"6,340,5,-,ncfrag=0/8;onet", b"6,340,5,-,ncfrag=4/8;wo!!", b"4,341,6,-;next\n")
    heard.stop()
    assert log.read_bytes().count(b"\n") == 3
    assert [record.text for record in formats.read(log.read_bytes())][:2] == ["onetwo!!", "next"]


def test_what_looks_like_a_piece_in_the_text_gets_no_newline(heard: Netconsole, log: Path) -> None:
    _say(heard, b"6,1,1,-;a,ncfrag=0/8;b")
    heard.stop()
    assert log.read_bytes() == b"6,1,1,-;a,ncfrag=0/8;b"


def test_each_target_gets_its_own_and_strangers_are_told(heard: Netconsole, log: Path) -> None:
    _say(heard, b"6,1,1,-;not ours\n", b"6,2,1,-;nor this\n", source=STRANGER)
    _say(heard, b"", b"6,1,1,-;ours\n")
    assert heard.wait(0, PATIENCE_S)
    assert log.read_bytes() == b"6,1,1,-;ours\n"
    assert heard.remarks() == [f"netconsole: 2 datagrams came from {STRANGER}, not this target"]
    assert heard.remarks() == []
    heard.admit(STRANGER)
    _say(heard, b"6,3,1,-;ours by now\n", source=STRANGER)
    assert heard.wait(1, PATIENCE_S)
    assert heard.remarks() == []


def test_a_flood_is_bounded_and_counted(log: Path) -> None:
    with log.open("ab", buffering=0) as out:
        # Four seconds' worth pass at once: 4 KiB; what trickles in later is little.
        slow = Netconsole(out.write, name="box", rate=1 << 10, sources=["127.0.0.1"])
        slow.start()
        _say(slow, *[b"4,1,1,-;" + b"x" * 1015 + b"\n"] * 200)
        slow.stop()
    kept = log.stat().st_size // 1024
    assert 4 <= kept < 100
    # A loaded host may have lost some on its own account.
    (said,) = (remark for remark in slow.remarks() if "were dropped" in remark)
    dropped = int(said.split()[1])
    assert "beyond the 1024 bytes/s" in said
    assert kept + dropped <= 200


def test_what_was_sent_before_the_end_is_read(heard: Netconsole, log: Path) -> None:
    _say(heard, *[b"4,%d,1,-;last words\n" % n for n in range(50)])
    heard.stop()
    heard.stop()
    assert log.read_bytes().count(b"last words") == 50


def test_a_sink_that_fails_is_said_and_the_next_may_fit(log: Path) -> None:
    wrong = [LabError("cannot write evidence: No space left on device")]
    kept: list[bytes] = []

    def sink(data: bytes) -> None:
        if wrong:
            raise wrong.pop()
        kept.append(data)

    heard = Netconsole(sink, name="box", sources=["127.0.0.1"])
    heard.start()
    _say(heard, b"4,1,1,-;one\n", b"4,2,1,-;two\n")
    heard.stop()
    assert kept == [b"4,2,1,-;two\n"]
    assert heard.remarks() == ["netconsole: cannot write evidence: No space left on device"]


def test_a_port_that_is_taken_is_told() -> None:
    first = Netconsole(lambda data: None, name="one")
    first.start()
    try:
        with pytest.raises(LabError, match=rf"UDP port {first.port}.*in use"):
            Netconsole(lambda data: None, name="two", port=first.port).start()
    finally:
        first.stop()


# -- the agent's side --------------------------------------------------------------

ROUTES = """Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0202000A\t0003\t0\t0\t0\t00000000\t0\t0\t0
lo\t0000007F\t00000000\t0001\t0\t0\t0\t000000FF\t0\t0\t0
eth1\t0000007F\t00000000\t0001\t0\t0\t5\t000000FF\t0\t0\t0
"""
ARP = """IP address       HW type     Flags       HW address            Mask     Device
10.0.2.2         0x1         0x2         52:55:0a:00:02:02     *        eth0
127.0.0.1        0x1         0x0         00:00:00:00:00:00     *        lo
127.0.0.1        0x1         0x2         02:00:00:00:00:01     *        lo
"""


@pytest.fixture
def sender(tmp_path: Path) -> Sender:
    proc, base = tmp_path / "proc", tmp_path / "netconsole"
    proc.mkdir()
    base.mkdir()
    (proc / "route").write_text(ROUTES)
    (proc / "arp").write_text(ARP)
    return Sender(str(base), str(proc))


def test_the_route_with_the_longest_prefix_and_least_metric_is_taken(sender: Sender) -> None:
    assert sender._route("127.0.0.1") == ("lo", "127.0.0.1", "127.0.0.1")


def test_a_neighbour_that_is_silent_is_told(sender: Sender) -> None:
    (Path(sender._proc) / "arp").write_text(ARP.splitlines()[0] + "\n")
    with pytest.raises(AgentError, match=r"127\.0\.0\.1 does not tell its hardware address on lo"):
        sender._mac(Route("lo", "127.0.0.1", "127.0.0.1"), "127.0.0.1", 9)


def test_the_neighbour_is_the_one_that_answered(sender: Sender) -> None:
    route = sender._route("127.0.0.1")
    assert sender._mac(route, "127.0.0.1", 9) == "02:00:00:00:00:01"


def test_a_kernel_without_it_is_told_by_its_options(tmp_path: Path) -> None:
    with pytest.raises(AgentError) as caught:
        Sender(str(tmp_path / "absent")).start("127.0.0.1", 9, Commands())
    assert caught.value.kind == "target"
    assert "dynamic netconsole" in caught.value.what or "modprobe" in str(caught.value)
    assert caught.value.cure
