"""Bounded memory with a slow controller, and losses of the kernel log said aloud."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from harness.agent import frames
from harness.agent.kmsg import KmsgCollector
from harness.agent.outbox import Outbox

__all__: list[str] = []


class Pipe:
    """An outbox whose controller reads when told to."""

    def __init__(self) -> None:
        self.receive, self.send = os.pipe()
        self.gone: list[str] = []
        self.outbox = Outbox(self.send, self.gone.append)
        self.outbox.start()
        self._decoder = frames.FrameDecoder()
        self._frames: list[tuple[int, bytes]] = []

    def frame(self) -> tuple[int, bytes]:
        while not self._frames:
            self._frames += self._decoder.feed(os.read(self.receive, 1 << 16))
        return self._frames.pop(0)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    os.close(pipe.receive)
    pipe.outbox.close()


def until(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + 20
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def test_a_full_stream_waits_and_stops_no_other(pipe: Pipe) -> None:
    put = []

    def fill() -> None:
        for number in range(40):
            pipe.outbox.put(1, bytes([number]) * 100_000)
            put.append(number)
        pipe.outbox.put(1, b"")

    filler = threading.Thread(target=fill)
    filler.start()
    assert until(lambda: len(put) >= 11)
    time.sleep(0.2)
    assert len(put) < 20, "the share of one stream is about 1 MiB"
    pipe.outbox.put(2, b"another stream")
    pipe.outbox.control({"id": 1})
    received = [pipe.frame() for _ in range(43)]
    filler.join()
    assert [data for stream, data in received if stream == 1] == [
        *(bytes([number]) * 100_000 for number in range(40)),
        b"",
    ]
    streams = [stream for stream, _ in received]
    assert streams.index(0) < 5, "control passes what waits"
    assert streams.index(2) < 5, "and streams take turns"


def test_control_keeps_its_order_and_shows_congestion(pipe: Pipe) -> None:
    messages = [{"id": number, "data": "x" * 50_000} for number in range(800)]
    for message in messages:
        pipe.outbox.control(message)
    assert pipe.outbox.congested()
    assert [frames.parse_control(pipe.frame()[1]) for _ in messages] == messages
    assert not pipe.outbox.congested()
    assert pipe.outbox.flush(5.0)


def test_a_gone_controller_wakes_who_waits() -> None:
    pipe = Pipe()
    refused = []

    def fill() -> None:
        while pipe.outbox.put(1, bytes(100_000)):
            pass
        refused.append(True)

    filler = threading.Thread(target=fill)
    filler.start()
    os.close(pipe.receive)
    filler.join(20)
    assert refused == [True]
    assert "cannot be written" in pipe.gone[0]


class Kept:
    """A collector's sink that keeps everything."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.events: list[dict[str, Any]] = []

    def put(self, _stream: int, payload: bytes) -> bool:
        self.data += payload
        return True

    def control(self, message: dict[str, Any]) -> None:
        self.events.append(message)


def test_an_overrun_is_told_with_the_number_of_records_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The order of devkmsg_read: records, EPIPE, the oldest record left, nothing more."""
    kept = Kept()
    receive, send = os.pipe()
    monkeypatch.setattr("harness.agent.kmsg._DEVICE", f"/proc/self/fd/{receive}")
    collector = KmsgCollector(9, kept, "start")
    os.close(send)
    answers: list[bytes | OSError] = [
        b"6,10,100,-;one\n",
        b"6,11,110,-;two\n SUBSYSTEM=pci\n DEVICE=+pci:0000:00:03.0\n",
        OSError(errno.EPIPE, "Broken pipe"),
        b"6,500,999,-;later\n",
        BlockingIOError(errno.EAGAIN, "again"),
    ]

    def read(fd: int, _limit: int) -> bytes:
        assert fd == collector._fd
        if len(answers) == 1:
            collector.stopping = True
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, OSError):
            raise answer
        return answer

    with monkeypatch.context() as patched:
        patched.setattr("harness.agent.kmsg.os.read", read)
        collector.collect()
    os.close(receive)
    assert bytes(kept.data) == (
        b"6,10,100,-;one\n6,11,110,-;two\n SUBSYSTEM=pci\n DEVICE=+pci:0000:00:03.0\n"
        b"6,500,999,-;later\n"
    )
    assert kept.events == [
        {"event": "kmsg_lost", "stream": 9, "after": 11, "next": 500, "lost": 488}
    ]
