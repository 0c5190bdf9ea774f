"""What a place is made of, from a real exporter: an sshd, a serial line by ser2net, two PDUs."""

from __future__ import annotations

import contextlib
import http.server
import select
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.errors import LabError
from harness.inventory import Target, load
from harness.lab.holds import Hold, hold
from harness.labgrid.hold import PlaceHold, own_name
from harness.labgrid.lease import Lease
from harness.labgrid.places import Place
from harness.labgrid.session import Gone, Session
from harness.link.console_source import source_for
from harness.link.dial import Endpoint
from harness.link.power import power_for
from harness.link.ssh import Ssh
from harness.tests.loopback.labgrids import Coordinators, Exporter, place_of
from harness.tests.loopback.servers import Serial, needed, pdudaemon, until
from harness.tests.loopback.sshd import Sshd


class Relay(http.server.BaseHTTPRequestHandler):
    """A relay by REST, as labgrid's model "rest" switches it."""

    state = b"0"

    def do_GET(self) -> None:
        self._say(Relay.state)

    def do_PUT(self) -> None:
        Relay.state = self.rfile.read(int(self.headers["Content-Length"]))
        self._say(b"")

    def _say(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        return


class Rack:
    """A coordinator with an exporter, and the lines that it exports."""

    def __init__(self, folder: Path, sshd: Sshd, daemon: str, relay: str) -> None:
        self.serial = Serial()
        service = {"address": "127.0.0.1", "username": "root", "port": sshd.port}
        tags = {"host_key": sshd.fingerprint()}
        parts = {
            "box": ("NetworkService", "NetworkSerialPort", "PDUDaemonPort"),
            "relay": ("NetworkService", "NetworkPowerPort"),
        }
        # Each by its class: "*" would be content with the first that is exported.
        places = {
            name: place_of(tags, *(f"rack/{name}/{cls}/*" for cls in classes))
            for name, classes in parts.items()
        }
        bare = {name: place_of() for name in ("late", "free")}
        self.coordinators = Coordinators(folder, {**places, **bare}).start()
        port = {"port": self.serial.path, "speed": 115200}
        outlet = {"host": daemon.removeprefix("http://"), "pdu": "rack", "index": 4}
        groups = {
            "box": {"NetworkService": service, "RawSerialPort": port, "PDUDaemonPort": outlet},
            "relay": {
                "NetworkService": service,
                "NetworkPowerPort": {"model": "rest", "host": relay, "index": 3},
            },
        }
        self.exporter = Exporter(folder, self.coordinators.address, "rack", groups)
        self.list = folder / "targets.toml"
        self.list.write_text(
            self.coordinators.lab()
            + "".join(
                f'[targets.{name}]\ndriver = "i915"\nplace = "{name}"\nkey = "{sshd.user_key}"\n'
                for name in places
            )
        )

    def target(self, name: str) -> Target:
        return load(self.list).get(name)

    def close(self) -> None:
        self.exporter.stop()
        self.coordinators.stop()
        self.serial.close()


@pytest.fixture(scope="module")
def rack(tmp_path_factory: pytest.TempPathFactory, sshd: Sshd) -> Iterator[Rack]:
    folder = tmp_path_factory.mktemp("rack")
    needed("ser2net", "ser2net")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Relay)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (folder / "pdu").mkdir()
    with pdudaemon(folder / "pdu") as daemon:
        relay = f"http://127.0.0.1:{server.server_address[1]}/relay/{{index}}"
        made = Rack(folder, sshd, daemon, relay)
        made.exporter.start()
        yield made
        made.close()
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


@contextlib.contextmanager
def joined(rack: Rack) -> Iterator[Session]:
    """A session of its own, which knows all."""
    session = Session(rack.coordinators.address, own_name())
    try:
        session.reach(Deadline(60))
        yield session
    finally:
        session.close()


def held_place(held: Hold) -> Place:
    """As its holder was told of it."""
    assert isinstance(held._place, Lease)
    return held._place._place.place()


def hears(held: Hold, serial: Serial, line: bytes) -> bool:
    """Whether a console that is opened now gives what the machine says."""
    try:
        source = source_for(held.now())
    except LabError:
        return False
    assert source is not None
    got = b""
    try:
        deadline = Deadline(20)
        while line not in got and not deadline.expired():
            serial.say(line)
            if select.select([source], [], [], 1.0)[0]:
                got += source.read(4096) or b""
        return line in got
    finally:
        source.close()


def test_address_console_and_power_are_the_places(rack: Rack, tmp_path: Path) -> None:
    with hold(rack.target("box"), "a test") as held:
        with Ssh.connect(Endpoint.of(held.target), Deadline(60)) as ssh:
            assert ssh.run(["true"], Deadline(60)).status == 0
        until(lambda: hears(held, rack.serial, b"kernel says\r\n"), "the console speaks")
        power_for(held.target).on(Deadline(60))
        outlets = rack.list.parent / "pdu" / "outlets"
        until(outlets.exists, "the outlet is switched")
        assert outlets.read_text() == "4 on\n"


@pytest.mark.deep
def test_a_console_is_found_again_when_its_exporter_was_restarted(rack: Rack) -> None:
    with hold(rack.target("box"), "a test") as held:
        until(lambda: hears(held, rack.serial, b"kernel says\r\n"), "the console speaks")
        rack.exporter.kill()
        held.check()
        assert held.now().address == "127.0.0.1"
        rack.exporter.start()
        until(lambda: hears(held, rack.serial, b"and again\r\n"), "the console is there again")
        held.check()


def test_a_target_is_as_it_was_when_its_place_is_changed_for_the_worse(rack: Rack) -> None:
    with hold(rack.target("relay"), "a test") as held:
        before = held.now()
        with joined(rack) as keeper:
            keeper.tag("relay", {"host_key": ""})
            until(lambda: not held_place(held).tags.get("host_key"), "it is told")
            assert held.now() == before
            keeper.tag("relay", {"host_key": str(before.host_key)})
        until(lambda: held_place(held).tags.get("host_key"), "it is told")
        assert held.now() == before


def test_a_failed_acquisition_leaves_the_place_to_others(rack: Rack) -> None:
    """As after a restart of the coordinator, where an exporter is back that somebody else uses."""
    with joined(rack) as other, joined(rack) as session, joined(rack) as third:
        spec = rack.coordinators.spec()
        other.acquire("relay")
        held = PlaceHold.take(session, {"name": "late"}, spec, "a test")
        part = {"placename": "late", "pattern": "rack/relay/NetworkService/*"}
        with held._lock:
            session._ask("AddPlaceMatch", session._pb.AddPlaceMatchRequest(**part))
            until(lambda: held.place().matches, "it is told")
            held._partial = True
            with pytest.raises(Gone, match="Failed to acquire resources"):
                held._beat()
            until(lambda: not held.place().acquired, "it is let go")
            # Nobody else gets it meanwhile.
            (mine,) = (one for one in session.reservations() if one.owner == session.owner)
            assert mine.place == "late"
        other.release("relay")
        held.check()
        until(lambda: held.place().resources, "it is acquired again")
        assert not session.reservations()
        held.release()
        PlaceHold.take(third, {"name": "late"}, spec, "another").release()


def test_a_place_that_is_given_back_while_it_is_not_had_is_free(rack: Rack) -> None:
    with joined(rack) as session, joined(rack) as third:
        held = PlaceHold.take(session, {"name": "free"}, rack.coordinators.spec(), "a test")
        with held._lock:
            held._token = session.reserve({"name": "free"}, prio=1.0).token
            session.release("free")
        held.release()
        spec = rack.coordinators.spec()
        PlaceHold.take(third, {"name": "free"}, spec, "another").release()


def test_a_pdu_that_labgrid_knows_is_switched(rack: Rack) -> None:
    with hold(rack.target("relay"), "a test") as held:
        power = power_for(held.target)
        power.on(Deadline(60))
        assert Relay.state == b"1"
        assert power.query(Deadline(60)) is True
        power.off(Deadline(60))
        assert Relay.state == b"0"
