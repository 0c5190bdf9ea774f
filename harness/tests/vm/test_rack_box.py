"""A box of a lab: address, serial line and power are its place's, by a real exporter, ser2net and
pdudaemon; the machine behind them is a virtual one."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.inventory import load
from harness.link.virtual import load_manifest
from harness.tests.inner import NAVI, Session
from harness.tests.loopback.labgrids import Coordinators, Exporter, place_of
from harness.tests.loopback.servers import needed, pdudaemon
from harness.tests.vm.rackbox import wired

VICTIMS = "harness/tests/vm/victims/bad_days.py"
LIMITS = "limits = { boot_s = 600, command_s = 60, silence_s = 120 }\n"
# Until it is up, on a host that does much else, in seconds.
BOOT_S = 600.0


@pytest.mark.deep
def test_a_panic_is_read_and_mended_by_what_the_place_is_made_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed("ser2net", "ser2net")
    made = load_manifest()
    driver, gpu, words = NAVI
    itself = tmp_path / "machine.toml"
    itself.write_text(
        f'[targets.machine]\ndriver = "{driver}"\nvm = {{ {gpu}, cmdline = "{words} panic=0" }}\n'
    )
    outlets = tmp_path / "outlets"
    with (
        pdudaemon(tmp_path) as daemon,
        wired(load(itself).get("machine"), made, tmp_path / "vm", outlets) as wires,
    ):
        at = wires.machine.start(Deadline(BOOT_S))
        groups = {
            "NetworkService": {"address": at.host, "username": at.user, "port": at.port},
            "RawSerialPort": {"port": wires.serial.path, "speed": 115200},
            "PDUDaemonPort": {"host": daemon.removeprefix("http://"), "pdu": "rack", "index": 4},
        }
        kinds = ("NetworkService", "NetworkSerialPort", "PDUDaemonPort")
        place = place_of({}, *(f"rack/box/{kind}/*" for kind in kinds))
        coordinators = Coordinators(tmp_path, {"box": place}).start()
        exporter = Exporter(tmp_path, coordinators.address, "rack", {"box": groups}).start()
        targets = tmp_path / "targets.toml"
        targets.write_text(
            f'{coordinators.lab()}[targets.box]\nplace = "box"\ndriver = "{driver}"\n'
            f'key = "{made.key}"\nhost_key = "{made.host_key}"\n{LIMITS}'
        )
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
        session = Session(targets, tmp_path / "runs", "box")
        names = ("test_c_machine_panics", "test_d_after_the_panic")
        done = session.run(*(f"{VICTIMS}::{name}" for name in names))
        exporter.stop()
        coordinators.stop()
    verdicts = session.verdicts()
    assert verdicts[names[0]].outcome == "incomplete", done.stdout
    assert "the kernel panicked: sysrq triggered crash" in verdicts[names[0]].reason
    assert verdicts[names[1]].outcome == "pass", done.stdout
    assert outlets.read_text() == "4 off\n4 on\n"
    (run,) = session.run_dirs()
    assert any(
        b"sysrq triggered crash" in log.read_bytes() for log in run.path.rglob("console.log")
    )
