"""The console over real sockets, terminals and commands."""

from __future__ import annotations

import errno
import os
import pty
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.errors import LabError, UsageError
from harness.inventory import Target
from harness.link.console import Console, attach, interact, log_file
from harness.link.console_line import Line
from harness.link.console_source import (
    CommandSource,
    SerialSource,
    SocketSource,
    Source,
    source_for,
)
from harness.link.sockname import short
from harness.ways import CommandConsole, SerialConsole, SocketConsole


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "console.log"


@pytest.fixture
def console(log: Path) -> Iterator[Console]:
    made = Console(log_file(log), name="box")
    yield made
    made.close()


def _until(condition: Callable[[], bool]) -> None:
    deadline = Deadline(20)
    while not condition():
        assert deadline.pause(0.005), "did not happen"


def _recv(sock: socket.socket, size: int) -> bytes:
    sock.settimeout(20)
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        assert more, "closed early"
        data += more
    return data


def test_every_byte_reaches_the_file_as_it_came(console: Console, log: Path) -> None:
    ours, theirs = socket.socketpair()
    console.attach(SocketSource(ours))
    data = bytes(range(256)) * 2000
    theirs.sendall(data)
    assert console.wait_received(len(data) - 1, Deadline(20))
    assert log.read_bytes() == data
    console.write(b"reboot\r")
    assert _recv(theirs, 7) == b"reboot\r"


def test_what_was_sent_before_the_end_is_not_lost(console: Console, log: Path) -> None:
    ours, theirs = socket.socketpair()
    console.attach(SocketSource(ours))
    theirs.sendall(b"Kernel panic - not syncing\n" * 3000)
    theirs.close()
    console.detach()
    assert log.read_bytes() == b"Kernel panic - not syncing\n" * 3000


def test_one_file_over_power_cycles(console: Console, log: Path) -> None:
    for boot in (b"one", b"two"):
        ours, theirs = socket.socketpair()
        console.attach(SocketSource(ours))
        assert console.attached
        theirs.sendall(boot)
        theirs.close()
        console.detach()
        assert not console.attached
    assert log.read_bytes() == b"onetwo"
    with pytest.raises(LabError, match="closed"):
        console.write(b"x")


def test_a_full_disk_is_remembered_and_reading_goes_on() -> None:
    def full(data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    console = Console(full, name="box")
    ours, theirs = socket.socketpair()
    console.attach(SocketSource(ours))
    theirs.sendall(b"first\n")
    assert console.wait_received(5, Deadline(20))
    theirs.sendall(b"last words\n")
    assert console.wait_received(16, Deadline(20))
    assert console.failure is not None
    assert console.failure.errno == errno.ENOSPC
    assert console.tail().endswith("last words")
    console.close()


def test_the_tail_is_bounded_and_harmless(console: Console) -> None:
    ours, theirs = socket.socketpair()
    console.attach(SocketSource(ours))
    data = b"x" * 99 + b"\n"
    theirs.sendall(data * 1000 + b"\x1b[2Jend\x07\xff\n")
    console.wait_received(100_000, Deadline(20))
    _until(lambda: "end" in console.tail())
    tail = console.tail(5)
    assert len(tail.splitlines()) == 5
    assert "\x1b" not in tail
    assert "\x07" not in tail


def test_a_serial_port_is_read_raw_and_is_ours_alone(console: Console, log: Path) -> None:
    master, slave = pty.openpty()
    port = os.ttyname(slave)
    source = SerialSource(port, 115200, target="box")
    console.attach(source)
    os.write(master, b"login: \r\n\x03\x04")
    assert console.wait_received(10, Deadline(20))
    assert log.read_bytes() == b"login: \r\n\x03\x04"
    with pytest.raises(LabError, match=port):
        SerialSource(port, 115200, target="other")
    console.write(b"root\r")
    assert os.read(master, 100) == b"root\r"
    console.detach()
    SerialSource(port, 9600, target="other").close()
    os.close(slave)
    os.close(master)


def test_an_unplugged_serial_adapter_ends_the_source(console: Console) -> None:
    master, slave = pty.openpty()
    console.attach(SerialSource(os.ttyname(slave), 115200, target="box"))
    os.close(slave)
    os.close(master)
    _until(lambda: not console.attached)


def test_bad_ports_and_speeds_are_told(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="no-such-port"):
        SerialSource(str(tmp_path / "no-such-port"), 115200, target="box")
    with pytest.raises(UsageError, match="speed: 12345"):
        SerialSource("/dev/null", 12345, target="box")
    with pytest.raises(LabError, match="cannot use serial port /dev/null"):
        SerialSource("/dev/null", 115200, target="box")


def test_a_command_is_a_console(console: Console, log: Path) -> None:
    echo = "printf 'ready\\n'; read line; printf 'got %s\\n' \"$line\""
    console.attach(CommandSource(["sh", "-c", echo], target="box"))
    assert console.wait_received(5, Deadline(20))
    console.write(b"a; b\r")
    _until(lambda: not console.attached)
    assert log.read_bytes().replace(b"\r", b"") == b"ready\ngot a; b\n"


def test_a_commands_own_escape_is_typed_twice_where_it_would_heed_it(
    console: Console, log: Path
) -> None:
    argv = ["sh", "-c", "stty raw -echo; printf .; exec cat"]
    console.attach(CommandSource(argv, target="box", keys="\r~B", escape=b"~"))
    assert console.wait_received(0, Deadline(20))
    for piece in (b"~", b".", b"a", b"~", b"b~\r~c\n", b"~d"):
        console.write(piece)
    assert console.sysrq("w")
    wanted = b".~~.a~b~\r~~c\n~~d\r~Bw"
    _until(lambda: len(log.read_bytes()) >= len(wanted))
    assert log.read_bytes() == wanted


def test_a_command_that_does_not_exist_is_named() -> None:
    with pytest.raises(LabError, match="no-such-console"):
        CommandSource(["no-such-console"], target="box")


def test_the_configured_source_is_opened(console: Console) -> None:
    def target(way: SerialConsole | CommandConsole | None) -> Target:
        plain = Target(driver="i915", name="box", address="box", host_key="SHA256:x")
        if way is None:
            return plain
        return Target(driver="i915", name="box", address="box", host_key="SHA256:x", console=way)

    assert source_for(target(None)) is None
    assert isinstance(source_for(target(CommandConsole(argv=("true",)))), CommandSource)
    master, slave = pty.openpty()
    source = source_for(target(SerialConsole(port=os.ttyname(slave))))
    assert isinstance(source, SerialSource)
    source.close()
    os.close(master)
    os.close(slave)


def test_others_watch_and_type_however_deep_the_directory(
    console: Console, tmp_path: Path, log: Path
) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    console.serve(deep / "console.sock")
    ours, theirs = socket.socketpair()
    console.attach(SocketSource(ours))
    with attach(deep / "console.sock") as one, attach(deep / "console.sock") as two:
        # What each types arrives, so each is known to be listening.
        one.sendall(b"1")
        two.sendall(b"2")
        assert sorted(_recv(theirs, 2)) == [ord("1"), ord("2")]
        theirs.sendall(b"# ")
        assert _recv(one, 2) == b"# "
        assert _recv(two, 2) == b"# "
    assert log.read_bytes() == b"# "


def test_a_watcher_that_does_not_read_never_holds_up_the_log(
    console: Console, tmp_path: Path, log: Path
) -> None:
    console.serve(tmp_path / "s")
    ours, theirs = socket.socketpair()
    console.attach(SocketSource(ours))
    with attach(tmp_path / "s") as lazy:
        lazy.sendall(b"x")
        assert _recv(theirs, 1) == b"x"
        theirs.sendall(b"y" * 4_000_000)
        assert console.wait_received(3_999_999, Deadline(60))
    assert log.stat().st_size == 4_000_000


def test_nobody_serving_is_told(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="nobody serves"):
        attach(tmp_path / "absent")


def test_passthrough_until_the_escape_key(tmp_path: Path) -> None:
    near, far = socket.socketpair()
    master, slave = pty.openpty()
    screen_r, screen_w = os.pipe()
    how: list[str] = []
    thread = threading.Thread(
        target=lambda: how.append(interact(near, keyboard=slave, screen=screen_w))
    )
    thread.start()
    far.sendall(b"# ")
    assert os.read(screen_r, 10) == b"# "
    os.write(master, b"\x03")  # raw: Ctrl-C is the target's, not ours
    assert _recv(far, 1) == b"\x03"
    os.write(master, b"ls\x1d")
    thread.join(20)
    assert how == ["you left"]
    assert _recv(far, 2) == b"ls"
    for fd in (master, slave, screen_r, screen_w):
        os.close(fd)
    near.close()
    far.close()


def test_passthrough_ends_with_the_console() -> None:
    near, far = socket.socketpair()
    keys_r, keys_w = os.pipe()
    far.close()
    assert interact(near, keyboard=keys_r, screen=keys_w) == "the console closed"
    os.close(keys_r)
    os.close(keys_w)
    near.close()


def test_the_sink_is_before_the_listeners(console: Console, log: Path) -> None:
    ours, theirs = socket.socketpair()
    seen: list[bytes] = []
    with console.listening(lambda data: seen.append(log.read_bytes())):
        console.attach(SocketSource(ours))
        theirs.sendall(b"panic")
        _until(lambda: bool(seen))
    assert seen == [b"panic"]


def test_a_source_that_breaks_while_it_is_opened_is_opened_again(
    console: Console, log: Path
) -> None:
    ours, theirs = socket.socketpair()
    broken = [BrokenPipeError(errno.EPIPE, "Broken pipe")]

    def source() -> Source:
        if broken:
            raise broken.pop()
        return SocketSource(ours)

    line = Line(console, source)
    opening = threading.Thread(target=line.open, daemon=True)
    opening.start()
    opening.join(20)
    assert not opening.is_alive()
    try:
        assert "cannot be opened: [Errno 32] Broken pipe" in line.remarks()[0]
        theirs.sendall(b"here")
        _until(lambda: log.read_bytes() == b"here")
    finally:
        line.close()
        theirs.close()


def test_a_server_that_accepts_nobody_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "console.sock"
    box = Target(
        driver="i915",
        name="box",
        address="box",
        host_key="SHA256:x",
        console=SocketConsole(path=str(path)),
    )
    refused: list[str] = []

    def knock() -> None:
        try:
            source_for(box)
        except LabError as error:
            refused.append(error.what)

    with (
        socket.socket(socket.AF_UNIX) as server,
        socket.socket(socket.AF_UNIX) as first,
    ):
        with short(path) as name:
            server.bind(name)
            server.listen(0)
            first.connect(name)
        knocking = threading.Thread(target=knock, daemon=True)
        knocking.start()
        knocking.join(60)
        assert not knocking.is_alive()
    assert "no console answers at" in refused[0]
