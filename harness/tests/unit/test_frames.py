"""The wire survives any cut of its bytes, and says what is wrong with others.

No process here: encoder and decoder against each other and against garbage.
"""

from __future__ import annotations

import random
import struct

import pytest

from harness.agent import frames

__all__: list[str] = []


def test_any_fragmentation_gives_the_same_frames() -> None:
    dice = random.Random(1)
    sent = [(dice.randrange(1 << 32), dice.randbytes(dice.randrange(2000))) for _ in range(200)]
    sent += [(7, b""), (0, b"x" * 100_000), (7, b"")]
    data = b"".join(frames.encode(stream, payload) for stream, payload in sent)
    for largest in (1, 7, 8, 9, 4096, len(data)):
        decoder = frames.FrameDecoder()
        received = []
        at = 0
        while at < len(data):
            size = dice.randint(1, largest)
            received += decoder.feed(data[at : at + size])
            at += size
        assert received == sent
        assert not decoder.partial()


def test_truncation_is_seen() -> None:
    data = frames.encode(3, b"payload")
    for cut in range(1, len(data)):
        decoder = frames.FrameDecoder()
        assert decoder.feed(data[:cut]) == []
        assert decoder.partial()


def test_oversize_is_refused_on_both_sides() -> None:
    with pytest.raises(frames.FrameError, match="over the limit"):
        frames.encode(1, bytes(frames.MAX_PAYLOAD + 1))
    decoder = frames.FrameDecoder()
    with pytest.raises(frames.FrameError, match="out of step"):
        decoder.feed(struct.pack(">II", 1, frames.MAX_PAYLOAD + 1))


def test_largest_frame_passes() -> None:
    payload = bytes(frames.MAX_PAYLOAD)
    assert frames.FrameDecoder().feed(frames.encode(1, payload)) == [(1, payload)]


def test_text_in_place_of_frames_is_refused() -> None:
    with pytest.raises(frames.FrameError):
        frames.FrameDecoder().feed(b"Last login: Sun Nov 22 18:04:44 UTC from somewhere\n")


@pytest.mark.parametrize("payload", [b"", b"{", b"[]", b"1", b"\xff\xfe", b"[" * 100_000])
def test_control_that_is_no_object_is_refused(payload: bytes) -> None:
    with pytest.raises(frames.FrameError):
        frames.parse_control(payload)


def test_control_keeps_bytes_that_are_no_utf8() -> None:
    text = b"\xff\xfe caf\xc3\xa9".decode("utf-8", "surrogateescape")
    [(stream, payload)] = frames.FrameDecoder().feed(frames.encode_control({"data": text}))
    assert stream == frames.CONTROL
    assert frames.parse_control(payload) == {"data": text}


def test_greeting_carries_the_version() -> None:
    assert len(frames.greeting()) == frames.GREETING_SIZE
    assert frames.parse_greeting(frames.greeting()) == frames.PROTOCOL
    assert frames.parse_greeting(frames.greeting(99)) == 99


@pytest.mark.parametrize("data", [b"", b"bash: python3", frames.greeting()[:-1], b"SSH-2.0-OpenS"])
def test_what_is_no_greeting_is_shown(data: bytes) -> None:
    with pytest.raises(frames.FrameError) as caught:
        frames.parse_greeting(data)
    assert repr(data) in str(caught.value)
