"""Consoles over real servers: ser2net in its forms, a BMC's SOL; and what happens when they go."""

from __future__ import annotations

import os
import socket
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.errors import LabError
from harness.inventory import Target
from harness.link.console import Console, log_file
from harness.link.console_line import Line
from harness.link.console_source import Source, source_for
from harness.link.machine import Box
from harness.tests.loopback.servers import PASSWORD, PATIENCE_S, Serial, bmc, ser2net, until
from harness.tests.loopback.sshd import free_port
from harness.ways import (
    ConsoleWay,
    Rfc2217Console,
    SerialConsole,
    SocketConsole,
    SolConsole,
    TcpConsole,
    TelnetConsole,
)

# All that telnet and terminals may find something in.
AWKWARD = bytes(range(256)) * 3 + b"\r\n\r\x00x\xff\xff\xff\xf0\r~.\n"


@pytest.fixture
def serial() -> Iterator[Serial]:
    made = Serial()
    yield made
    made.close()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "console.log"


@pytest.fixture
def console(log: Path) -> Iterator[Console]:
    made = Console(log_file(log), name="box")
    yield made
    made.close()


def _box(way: ConsoleWay) -> Target:
    return Target(driver="i915", name="box", address="box", host_key="SHA256:x", console=way)


def _source(target: Target) -> Source:
    source = source_for(target)
    assert source is not None
    return source


def _attach(console: Console, way: ConsoleWay) -> None:
    console.attach(_source(_box(way)))


def _speaks(console: Console, serial: Serial, log: Path) -> None:
    """Whatever the machine says arrives as it was said, and what we type arrives there."""
    said = b""

    def connected() -> bool:
        # A server takes its time between accepting us and opening the port.
        nonlocal said
        serial.say(b".")
        said += b"."
        return console.wait_received(0, Deadline(0.1))

    until(connected, "the first byte")
    serial.say(AWKWARD)
    until(lambda: log.read_bytes().endswith(AWKWARD), "all of it")
    assert said.endswith(log.read_bytes()[: -len(AWKWARD)])
    console.write(AWKWARD)
    told = b""
    deadline = Deadline(PATIENCE_S)
    while len(told) < len(AWKWARD) and deadline.pause(0.01):
        told += serial.told()
    assert told == AWKWARD


@pytest.mark.parametrize(
    ("accepter", "kind"),
    [
        ("tcp", TcpConsole),
        ("telnet", TelnetConsole),
        ("telnet(rfc2217=true)", Rfc2217Console),
        # A server that does not speak RFC 2217 is a telnet server all the same.
        ("telnet", Rfc2217Console),
    ],
)
def test_ser2net_is_transparent(
    tmp_path: Path,
    serial: Serial,
    console: Console,
    log: Path,
    accepter: str,
    kind: type[TcpConsole | TelnetConsole | Rfc2217Console],
) -> None:
    with ser2net(tmp_path, serial, accepter) as port:
        _attach(console, kind(host="localhost", port=port))
        _speaks(console, serial, log)
        console.detach()


def test_rfc2217_sets_the_ports_speed_and_sends_break(
    tmp_path: Path, serial: Serial, console: Console
) -> None:
    with ser2net(tmp_path, serial, "telnet(rfc2217=true)") as port:
        _attach(console, Rfc2217Console(host="localhost", port=port, baud=57600))
        until(lambda: serial.speed() == termios.B57600, "the speed")
        assert console.sysrq("w")
        until(lambda: serial.told().endswith(b"w"), "the key")
        assert console.attached


def test_a_socket_is_a_console(tmp_path: Path, console: Console, log: Path) -> None:
    path = tmp_path / "console"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(path))
        server.listen(1)
        _attach(console, SocketConsole(path=str(path)))
        machine, _ = server.accept()
        with machine:
            machine.sendall(AWKWARD)
            until(lambda: log.read_bytes() == AWKWARD, "all of it")
            assert not console.sysrq("w"), "nothing carries a BREAK here"
    with pytest.raises(LabError, match="no console answers"):
        source_for(_box(SocketConsole(path=str(tmp_path / "absent"))))


def test_a_bmcs_serial_over_lan(
    tmp_path: Path, serial: Serial, console: Console, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAB_BMC", PASSWORD)
    with bmc(tmp_path, serial) as port:
        way = SolConsole(host="127.0.0.1", port=port, user="lab", password_env="LAB_BMC", cipher=3)
        _attach(console, way)
        until(lambda: b"SOL Session operational" in log.read_bytes(), "the session")
        serial.say(b"[    0.0] Linux version 6.12\r\n")
        until(lambda: b"Linux version 6.12" in log.read_bytes(), "the machine's words")
        # The tilde at a line's beginning is ipmitool's own.
        console.write(b"root\r~.\r")
        told = b""
        deadline = Deadline(PATIENCE_S)
        while b"~." not in told and deadline.pause(0.02):
            told += serial.told()
        assert told == b"root\r~.\r"
        assert console.attached
        assert console.sysrq("w")
        until(lambda: b"send break" in log.read_bytes(), "ipmitool takes the BREAK")
        assert PASSWORD not in log.read_text(errors="replace")
        console.detach()
        # What an earlier harness left is ended first.
        _attach(console, way)
        until(lambda: log.read_bytes().count(b"SOL Session operational") == 2, "the second one")


def test_a_console_server_that_restarts_is_come_back_to(
    tmp_path: Path, serial: Serial, console: Console, log: Path
) -> None:
    port = free_port()
    target = _box(TcpConsole(host="localhost", port=port))

    line = Line(console, lambda: _source(target))
    try:
        line.open()
        assert "cannot be opened: no console answers at localhost" in line.remarks()[0]
        for _ in range(2):
            with ser2net(tmp_path, serial, "tcp", port):
                until(lambda: console.attached, "attached")
                seen = console.received

                def heard(seen: int = seen) -> bool:
                    serial.say(b".")
                    return console.received > seen

                until(heard, "the machine is heard")
            until(lambda: not console.attached, "gone")
        until(lambda: len(line._told) >= 3, "both ends and one return")
        said = "\n".join(line.remarks())
        assert said.count("the console ended") == 2
        assert "the console is back after" in said
        (still,) = [line.remarks()[0]]
        assert "away" in still or "cannot be opened" in still
    finally:
        line.close()
    assert set(log.read_bytes()) == set(b".")


def test_an_adapter_that_is_replugged_is_read_again(
    tmp_path: Path, console: Console, log: Path
) -> None:
    node = tmp_path / "ttyUSB0"
    target = _box(SerialConsole(port=str(node)))

    line = Line(console, lambda: _source(target))
    try:
        first = Serial()
        os.symlink(first.path, node)
        line.open()
        first.say(b"one ")
        until(lambda: log.read_bytes() == b"one ", "heard")
        node.unlink()
        first.close()  # both ends: as when the adapter is pulled
        until(lambda: not console.attached, "gone")
        second = Serial()
        os.symlink(second.path, node)
        until(lambda: console.attached, "back")
        second.say(b"two")
        until(lambda: log.read_bytes() == b"one two", "heard again")
        assert any("back after" in remark for remark in line.remarks())
        second.close()
    finally:
        line.close()


def test_a_dead_console_stops_no_target_and_is_said() -> None:
    box = Box(_box(TcpConsole(host="localhost", port=free_port())))
    try:
        box.up(lambda data: None, Deadline(PATIENCE_S))
        assert "the console cannot be opened" in box.remarks()[0]
        until(lambda: "away" in "".join(box.remarks()), "it is said again for the next test")
        assert box.console_tail() == ""
        assert not box.sysrq("w", Deadline(PATIENCE_S))
    finally:
        box.down()
