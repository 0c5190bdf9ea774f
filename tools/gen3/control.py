"""The control socket: faults, hotplug, state and the picture, for tests and for people.

One JSON object a line, one answer a line.  As a program it is the client:
`python -m tools.gen3.control SOCKET state`.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from tools.gen3.stalls import Stalls

__all__ = ["Client", "Control", "Refused", "main"]

# A request is a few words; who sends more is no client of ours.
_LONGEST = 1 << 16
# Seconds a person's command waits for the model, which answers between two accesses.
_PATIENCE_S = 10.0


class Refused(Exception):
    """The model said no, in its words."""


class Faults(Protocol):
    """The switches of a chip."""

    def table(self) -> Any:
        """All of them, for people: name, values, default, value now, what it does."""

    def set(self, name: str, value: Any) -> None:
        """Raises ValueError for a name or a value that there is not."""

    def reset(self) -> None:
        """All as they are in a sound chip."""


class Display(Protocol):
    """The pipes."""

    def png(self, pipe: int) -> bytes:
        """What `pipe` scans out.  Raises ValueError where it is off or there is none."""

    def png_at_reset(self, pipe: int) -> bytes:
        """The same, of the moment after the last reset.  Raises ValueError as `png` does."""

    def plug(self, on: bool) -> None:
        """A monitor comes or goes."""


class Chip(Protocol):
    """What can be controlled."""

    @property
    def faults(self) -> Faults: ...

    @property
    def display(self) -> Display: ...

    def state(self) -> dict[str, Any]:
        """For people and tests: registers that matter, counters."""


class Control:
    """Listens, and answers with the chip as it is now."""

    def __init__(self, path: Path, chip: Callable[[], Chip], stalls: Stalls) -> None:
        """`chip` is asked each time: a reset of the machine makes another one; `stalls` are the
        process's."""
        path.unlink(missing_ok=True)
        self._sock = socket.socket(socket.AF_UNIX)
        with _short(path) as name:
            self._sock.bind(name)
        self._sock.listen()
        self._chip = chip
        self._stalls = stalls
        self._guests: list[_Guest] = []

    def sources(self) -> list[Control | _Guest]:
        """All there is to poll."""
        self._guests = [guest for guest in self._guests if guest.fileno() >= 0]
        return [self, *self._guests]

    def close(self) -> None:
        """Leave all clients, and listen no more."""
        for guest in self._guests:
            guest.close()
        self._sock.close()

    def fileno(self) -> int:
        return self._sock.fileno()

    def ready(self) -> None:
        sock, _ = self._sock.accept()
        self._guests.append(_Guest(sock, self.answer))

    def answer(self, line: bytes) -> dict[str, Any]:
        """The answer to one request; `error` is in it where there is none."""
        try:
            asked = json.loads(line)
            return self._do(asked)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            # JSON that is none, a value that is none: the asker's fault, told to the asker.
            missing = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            return {"error": missing}

    def _do(self, asked: Any) -> dict[str, Any]:
        chip, op = self._chip(), asked["op"]
        if op == "state":
            return {"state": {**chip.state(), "loop": self._stalls.state()}}
        if op == "faults":
            return {"faults": chip.faults.table()}
        if op == "set":
            chip.faults.set(asked["fault"], asked["value"])
        elif op == "reset-faults":
            chip.faults.reset()
        elif op == "plug":
            chip.display.plug(bool(asked["on"]))
        elif op == "frame":
            pipe, at = int(asked.get("pipe", 0)), asked.get("at", "now")
            if at not in ("now", "reset"):
                raise ValueError(f"no picture of {at!r}: now, reset")
            png = chip.display.png(pipe) if at == "now" else chip.display.png_at_reset(pipe)
            return {"png": base64.b64encode(png).decode()}
        else:
            raise ValueError(f"no operation {op!r}: faults, set, reset-faults, plug, frame, state")
        return {}


class _Guest:
    """One client's connection."""

    def __init__(self, sock: socket.socket, answer: Callable[[bytes], dict[str, Any]]) -> None:
        # A client that does not read must not stop the chip.
        sock.settimeout(1.0)
        self._sock = sock
        self._answer = answer
        self._partial = b""

    def fileno(self) -> int:
        return self._sock.fileno()

    def ready(self) -> None:
        try:
            for line in self._lines():
                self._sock.sendall(json.dumps(self._answer(line)).encode() + b"\n")
        except OSError:  # it went away, or does not read
            self._sock.close()

    def close(self) -> None:
        self._sock.close()

    def _lines(self) -> Iterator[bytes]:
        data = self._sock.recv(4096)
        *lines, self._partial = (self._partial + data).split(b"\n")
        yield from lines
        if not data or len(self._partial) > _LONGEST:
            self._sock.close()


class Client:
    """The other end, for tests and for people."""

    def __init__(self, path: Path, patience: float = _PATIENCE_S) -> None:
        """Raises OSError where nobody listens."""
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.settimeout(patience)
        try:
            with _short(path) as name:
                self._sock.connect(name)
        except OSError:
            self._sock.close()
            raise
        self._file = self._sock.makefile("rb")

    def call(self, op: str, **args: Any) -> dict[str, Any]:
        """The answer.  Raises Refused with the model's words, OSError when it is gone."""
        self._sock.sendall(json.dumps({"op": op, **args}).encode() + b"\n")
        line = self._file.readline()
        if not line.endswith(b"\n"):  # killed in the middle of a word, perhaps
            raise ConnectionError("the model closed its control socket")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise Refused(answer["error"])
        return answer

    def close(self) -> None:
        """Idempotent."""
        self._file.close()
        self._sock.close()


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """`path` by a name that fits a socket address (108 bytes), however deep it lies."""
    parent = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{parent}/{path.name}"
    finally:
        os.close(parent)


def main(arguments: list[str]) -> int:
    """The client as a program."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.gen3.control", description="Look at a gen3 model and break it."
    )
    parser.add_argument("socket", type=Path, help="the model's control socket")
    words = parser.add_subparsers(dest="op", required=True)
    words.add_parser("state", help="registers that matter, counters")
    words.add_parser("faults", help="the fault switches, and how they are set")
    words.add_parser("reset-faults", help="all faults off")
    fault = words.add_parser("set", help="set one fault switch")
    fault.add_argument("fault")
    fault.add_argument("value")
    frame = words.add_parser("frame", help="write what a pipe scans out as PNG")
    frame.add_argument("file", type=Path)
    frame.add_argument("--pipe", type=int, default=0)
    frame.add_argument(
        "--at", choices=("now", "reset"), default="now", help="or right after the last GPU reset"
    )
    plug = words.add_parser("plug", help="plug a monitor in or out")
    plug.add_argument("on", choices=("on", "off"))
    given = vars(parser.parse_args(arguments))
    where, file, op = given.pop("socket"), given.pop("file", None), given.pop("op")
    if op == "plug":
        given["on"] = given["on"] == "on"
    try:
        answer = Client(where).call(op, **given)
        if file is not None:
            file.write_bytes(base64.b64decode(answer["png"]))
        elif answer:
            print(json.dumps(answer, indent=2))
    except (OSError, Refused) as error:
        print(f"gen3: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
