"""The control socket, its client, and the loop that serves it beside QEMU."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from harness.deadline import Deadline
from harness.errors import LabError
from harness.link import gen3
from harness.tests.unit.gen3.qemu_side import Device, Qemu
from tools.gen3 import control
from tools.gen3.control import Control, Refused
from tools.gen3.line import IrqfdLine
from tools.gen3.loop import Loop
from tools.gen3.memory import Memory
from tools.gen3.proxy import Proxy
from tools.gen3.stalls import Stalls

PNG = b"\x89PNG and so on"


class Faults:
    def __init__(self) -> None:
        self.now = {"irq": "ok"}

    def table(self) -> Any:
        return [{"name": name, "value": value} for name, value in self.now.items()]

    def set(self, name: str, value: Any) -> None:
        if name not in self.now:
            raise ValueError(f"no fault {name!r}")
        self.now[name] = value

    def reset(self) -> None:
        self.now["irq"] = "ok"


class Display:
    def __init__(self) -> None:
        self.plugged = True

    def png(self, pipe: int) -> bytes:
        if pipe > 1:
            raise ValueError(f"no pipe {pipe}")
        return PNG

    def png_at_reset(self, pipe: int) -> bytes:
        return PNG[::-1]

    def plug(self, on: bool) -> None:
        self.plugged = on


class Chip(Device):
    def __init__(self) -> None:
        self.works: Callable[[str], None] = lambda at: None
        super().__init__()
        self.faults = Faults()
        self.display = Display()

    def config_read(self, offset: int, size: int) -> int:
        self.works("read")
        return super().config_read(offset, size)

    def due(self) -> int | None:
        self.works("due")
        return super().due()

    def tick(self, now: int) -> None:
        self.works("tick")
        super().tick(now)

    def state(self) -> dict[str, Any]:
        self.works("state")
        return {"ticks": len(self.ticks)}


class Model:
    """All of a model's process but the process, in a thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.qemu = Qemu()
        line = IrqfdLine()
        self.now = 0
        self.proxy = Proxy(self.qemu.models, Memory(), line, Chip)
        stalls = Stalls(lambda: self.now)
        self.control = Control(path, lambda: self.proxy.device, stalls)
        self.loop = Loop(
            self.proxy,
            line,
            self.control.sources,
            lambda: self.proxy.device,
            lambda: self.now,
            stalls,
        )
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.loop.run()
        except EOFError:
            return

    def stop(self) -> None:
        self.qemu.sock.close()
        self.thread.join(30)
        assert not self.thread.is_alive()


@pytest.fixture
def model(tmp_path: Path) -> Iterator[Model]:
    made = Model(tmp_path / "gen3.sock")
    yield made
    made.stop()


def test_faults_plug_and_state_are_the_chips(model: Model) -> None:
    chip = model.proxy.device
    client = control.Client(model.path)
    assert client.call("faults") == {"faults": [{"name": "irq", "value": "ok"}]}
    assert client.call("set", fault="irq", value="lost") == {}
    assert chip.faults.now == {"irq": "lost"}
    client.call("reset-faults")
    assert chip.faults.now == {"irq": "ok"}
    client.call("plug", on=False)
    assert not chip.display.plugged
    assert client.call("state")["state"]["ticks"] == 0
    client.close()


def test_after_a_reset_of_the_machine_it_is_the_new_chip_that_answers(model: Model) -> None:
    gen3.ask(model.path, "set", fault="irq", value="lost")
    model.qemu.say(7)
    assert model.qemu.reply() == 0
    assert gen3.ask(model.path, "faults") == {"faults": [{"name": "irq", "value": "ok"}]}


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (b"no json", "Expecting value"),
        (b"[]", "indices must be"),
        (b"{}", "'op' is missing"),
        (b'{"op": "explode"}', "no operation 'explode'"),
        (b'{"op": "set", "fault": "irq"}', "'value' is missing"),
        (b'{"op": "set", "fault": "beer", "value": "cold"}', "no fault 'beer'"),
        (b'{"op": "frame", "pipe": "b"}', "invalid literal"),
        (b'{"op": "frame", "pipe": 7}', "no pipe 7"),
        (b'{"op": "frame", "at": "once"}', "no picture of 'once'"),
        (b"[" * 50_000, "recursion"),
        (b"\xc3\x28", "utf-8"),
    ],
)
def test_what_is_asked_wrongly_is_answered_and_the_model_goes_on(
    model: Model, request_: bytes, words: str
) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(30)
        sock.connect(str(model.path))
        sock.sendall(request_ + b"\n")
        reader = sock.makefile("rb")
        assert words in json.loads(reader.readline())["error"]
        sock.sendall(b'{"op": "state"}\n')
        assert json.loads(reader.readline())["state"]["ticks"] == 0


def test_a_client_that_never_ends_its_line_is_left(model: Model) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(30)
        sock.connect(str(model.path))
        with pytest.raises(ConnectionError):
            sock.sendall(b"x" * (4 << 20))
    assert gen3.ask(model.path, "state")["state"]["ticks"] == 0


def test_clients_come_and_go_and_qemu_is_served_all_the_while(model: Model) -> None:
    clients = [control.Client(model.path) for _ in range(5)]
    for number, client in enumerate(clients):
        assert client.call("state")["state"]["ticks"] == 0
        model.qemu.config(0, 4)
        assert model.qemu.reply() == 0x29C28086
        if number % 2:
            client.close()
    again = control.Client(model.path)
    assert again.call("state")["state"]["ticks"] == 0
    assert clients[0].call("state")["state"]["ticks"] == 0
    for client in (*clients, again):
        client.close()


def test_what_is_due_is_ticked_once_and_with_the_time(model: Model) -> None:
    model.now = 50_000_000
    model.proxy.device.when = 30_000_000
    model.qemu.config(0, 2)  # whatever wakes the loop
    model.qemu.reply()
    assert gen3.ask(model.path, "state")["state"]["ticks"] == 1
    assert model.proxy.device.ticks == [50_000_000]


def test_what_is_due_is_ticked_between_accesses_that_never_pause(model: Model) -> None:
    device = model.proxy.device
    for number in range(1, 20):
        device.when = number * 2_000_000 - 1
        model.now = number * 2_000_000
        model.qemu.config(0, 2)
        model.qemu.reply()
        model.qemu.config(0, 2)
        model.qemu.reply()
    assert len(device.ticks) == 19


# -- when it stands still ---------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "what"),
    [
        ("read", "an access of the guest's"),
        ("tick", "a tick of the chip"),
        ("state", "the control socket or the interrupt line"),
    ],
)
def test_a_stall_is_told_and_counted(
    model: Model, capsys: pytest.CaptureFixture[str], where: str, what: str
) -> None:
    device, left, done = model.proxy.device, [1_500_000_000, 900_000_000], threading.Event()

    def works(at: str) -> None:
        if at == where and left:
            model.now += left.pop(0)
            if not left:
                done.set()

    device.works = works
    for _ in range(2):
        device.when = 0
        model.qemu.config(0, 4)
        model.qemu.reply()
        gen3.ask(model.path, "state")
    # A tick may have been asked for once more before it came; then for the second in its turn.
    deadline = Deadline(30)
    while not done.is_set():
        assert deadline.pause(0.01)
        device.when = 0
        gen3.ask(model.path, "state")
    assert gen3.ask(model.path, "state")["state"]["loop"] == {"stalls": 1, "longest_ms": 1500}
    assert capsys.readouterr().err == f"gen3: stall: {what}: 1.5 s\n"


def test_a_host_that_does_not_run_the_model_is_told(
    model: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    device, late = model.proxy.device, threading.Event()

    def works(at: str) -> None:
        # It is about to wait for what is due in 20 ms, and while it does 3 s pass.
        if at == "due" and not late.is_set():
            device.when = model.now + 20_000_000
            model.now += 3_020_000_000
            late.set()

    device.works = works
    model.qemu.config(0, 4)
    model.qemu.reply()
    assert late.wait(30)
    assert gen3.ask(model.path, "state")["state"]["loop"]["stalls"] == 1
    assert capsys.readouterr().err.startswith("gen3: stall: the host did not run the model: 3.0 s")


def test_the_harness_tells_who_refused_and_who_is_not_there(model: Model, tmp_path: Path) -> None:
    with pytest.raises(LabError, match="refuses set: no fault 'beer'"):
        gen3.ask(model.path, "set", fault="beer", value="cold")
    with pytest.raises(LabError, match=r"does not answer state.*No such file") as caught:
        gen3.ask(tmp_path / "nobody", "state")
    assert caught.value.cure


# -- for people -------------------------------------------------------------------


def test_a_person_sets_a_fault_and_keeps_a_picture(
    model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = str(model.path)
    assert control.main([where, "set", "irq", "stuck"]) == 0
    assert control.main([where, "faults"]) == 0
    assert '"stuck"' in capsys.readouterr().out
    assert control.main([where, "frame", str(tmp_path / "out.png")]) == 0
    assert (tmp_path / "out.png").read_bytes() == PNG
    assert control.main([where, "plug", "off"]) == 0
    assert not model.proxy.device.display.plugged
    assert control.main([where, "set", "beer", "cold"]) == 1
    assert "no fault 'beer'" in capsys.readouterr().err
    assert control.main([str(tmp_path / "nobody"), "state"]) == 1
    assert "No such file" in capsys.readouterr().err


def test_the_client_tells_a_refusal_from_an_end(model: Model) -> None:
    client = control.Client(model.path)
    with pytest.raises(Refused, match="no pipe 9"):
        client.call("frame", pipe=9)
    assert base64.b64decode(client.call("frame")["png"]) == PNG
    assert base64.b64decode(client.call("frame", at="reset")["png"]) == PNG[::-1]
    model.stop()
    model.control.close()
    with pytest.raises(OSError, match=r"closed|Broken pipe"):
        client.call("state")
    client.close()


@pytest.mark.parametrize("said", [b"", b'{"state": {"chip": "g'])
def test_a_model_that_is_killed_within_its_answer_has_not_answered(
    tmp_path: Path, said: bytes
) -> None:
    path = tmp_path / "gen3.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(10)

        def die() -> None:
            for _ in range(2):
                guest, _ = listener.accept()
                with guest:
                    guest.recv(4096)
                    guest.sendall(said)

        with ThreadPoolExecutor(1) as pool:
            dying = pool.submit(die)
            with pytest.raises(LabError, match="does not answer state: it closed"):
                gen3.ask(path, "state")
            client = control.Client(path)
            with pytest.raises(ConnectionError, match="closed its control socket"):
                client.call("state")
            client.close()
            dying.result(30)
