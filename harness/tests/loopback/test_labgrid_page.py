"""A lab of several hosts from nothing, as harness/labgrid/README.md says it: its units under a real
systemd, its commands as they stand there.

The page's addresses are loopback's here, its USB adapter a pseudo terminal, and its box this host.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.inventory import load
from harness.lab.holds import hold
from harness.labgrid.hold import own_name
from harness.labgrid.session import Session
from harness.link.dial import Endpoint
from harness.link.ssh import Ssh
from harness.tests.inner import ROOT
from harness.tests.loopback.labgrids import why_no_labgrid
from harness.tests.loopback.servers import Serial, needed
from harness.tests.loopback.sshd import Sshd, free_port
from harness.tests.loopback.usermanager import UserManager

PAGE = ROOT / "harness/labgrid/README.md"
UNITS = ("labgrid-coordinator", "labgrid-exporter")
# Starts that systemd takes for too many, where a unit does not say otherwise: 5 in 10 s.
MANY = 6
# Until what systemd starts has come up, on a host that does much else, in seconds.
PATIENCE_S = 600.0
# A checkout's `lab`, which tells how it was called.
STUB = """\
#!/bin/sh
printf '%s\\n' "$@" > "$0.called"
"""


def blocks() -> list[str]:
    """The page's indented texts."""
    found = re.findall(r"(?:^(?: {4}.*)?\n)+", PAGE.read_text(), re.MULTILINE)
    return [textwrap.dedent(block).strip() for block in found if block.strip()]


def block(beginning: str) -> str:
    """The one of them that begins so."""
    (found,) = (each for each in blocks() if each.startswith(beginning))
    return found


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[UserManager]:
    """It sees this Python's labgrid in /opt, and an /etc/default of its own."""
    if reason := why_no_labgrid():
        pytest.skip(reason)
    (tmp_path / "default").mkdir()
    made = UserManager(
        "mount -t tmpfs none /opt && mkdir /opt/labgrid\n"
        f"mount --bind '{sys.prefix}' /opt/labgrid\n"
        f"mount --bind '{tmp_path}/default' /etc/default"
    )
    units = made.home / ".config/systemd/user"
    units.mkdir(parents=True)
    for unit in (ROOT / "tools/systemd").iterdir():
        shutil.copy(unit, units)
    # A user's manager makes no users: that line alone is not tried.
    (units / f"{UNITS[0]}.service.d").mkdir()
    (units / f"{UNITS[0]}.service.d/root.conf").write_text("[Service]\nDynamicUser=no\n")
    try:
        made.start()
        yield made
    finally:
        made.stop()


def settings(command: str, folder: Path, **changes: str) -> None:
    """/etc/default/labgrid as the page's `command` writes it, but for `changes`."""
    line = block(command).split(" > /etc/default/labgrid")[0]
    told = subprocess.run(["sh", "-euc", line], capture_output=True, text=True, check=True)
    pairs = dict(each.split("=", 1) for each in told.stdout.split())
    known = set(changes) & set(pairs)
    pairs |= {name: changes[name] for name in known}
    with (folder / "default/labgrid").open("a") as file:
        file.writelines(f"{name}={value}\n" for name, value in pairs.items())


@pytest.mark.deep
def test_a_lab_from_nothing(
    manager: UserManager, tmp_path: Path, sshd: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed("ser2net", "ser2net")
    address, serial = f"127.0.0.1:{free_port()}", Serial()
    parts = tmp_path / "labgrid.yaml"
    parts.write_text(
        block("gen3-box:")
        .replace("address: gen3-box.lab", f"address: 127.0.0.1, port: {sshd.port}")
        .replace("USBSerialPort", "RawSerialPort")
        .replace("match: { ID_SERIAL_SHORT: A50285BI }", f"port: {serial.path}")
    )
    changes = {"LG_COORDINATOR": address, "HOST": "127.0.0.1", "PARTS": str(parts)}
    settings("echo LG_COORDINATOR", tmp_path, **changes)
    settings("printf", tmp_path, **changes)
    manager.systemctl("daemon-reload")
    # On a slow host no limit would be met.
    for unit in UNITS:
        assert manager.shown(unit, "StartLimitIntervalUSec") == ["0"]
    # The rack is up before the host that coordinates.
    manager.systemctl("enable", "--now", UNITS[1])
    until(lambda: restarts(manager) >= MANY, "the exporter is started again and again")
    manager.systemctl("enable", "--now", UNITS[0])
    session = Session(address, own_name())
    session.reach(Deadline(PATIENCE_S))
    until(lambda: len(session.exports()) == 3, "the parts are exported")

    environment = {
        **os.environ,
        "PATH": f"{sys.prefix}/bin:{os.environ['PATH']}",
        "LG_COORDINATOR": address,
    }
    client = block("labgrid-client -p gen3-box create").replace("SHA256:…", sshd.fingerprint())
    done = subprocess.run(["sh", "-euc", client], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    until(lambda: "host_key" in session.places()["gen3-box"].tags, "the place is tagged")
    targets = tmp_path / "targets.toml"
    targets.write_text(block("[lab]").replace("10.8.0.1:20408", address) + "\n")
    lab = [sys.executable, "-m", "harness.cli", f"--inventory={targets}", "targets"]
    told = subprocess.run([*lab, "--import"], cwd=ROOT, capture_output=True, text=True, check=True)
    # What only its keeper can say.
    targets.write_text(f'{targets.read_text()}{told.stdout}key = "{sshd.user_key}"\n')
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with hold(load(targets).get("gen3-box"), "a test") as held:
        assert Ssh.connect(Endpoint.of(held.target), Deadline(60)).run(["true"], Deadline(60))
        assert (held.target.driver, held.target.tags) == ("i915", ("display", "gen3"))
        shown = subprocess.run(lab, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert shown.count("its place") == 3
        assert f"pid {os.getpid()}" in shown
        # Whoever dies is started again, and comes together again.
        generation, times = session.generation, restarts(manager)
        manager.systemctl("kill", "--signal=KILL", UNITS[0])
        until(lambda: session.generation > generation, "the coordinator is there again")
        until(lambda: restarts(manager) > times, "the exporter is started again")
    session.close()
    serial.close()


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for what must come."""
    deadline = Deadline(PATIENCE_S)
    while not condition():
        assert deadline.pause(0.1), f"did not happen: {what}"


def restarts(manager: UserManager) -> int:
    """How often systemd has started the exporter again."""
    state, number = manager.shown(UNITS[1], "ActiveState", "NRestarts")
    assert state != "failed"
    return int(number)


@pytest.mark.deep
def test_the_drop_in_shares_the_night(manager: UserManager, tmp_path: Path) -> None:
    checkout = tmp_path / "check out"
    (checkout / "tools").mkdir(parents=True)
    lab = checkout / "tools/lab"
    lab.write_text(STUB)
    lab.chmod(0o755)
    place = manager.home / ".config/systemd/user/tdrlab-nightly@.service.d"
    place.mkdir()
    (place / "override.conf").write_text(block("[Service]"))
    manager.systemctl("daemon-reload")
    argv = ["systemd-escape", "--path", str(checkout)]
    instance = subprocess.run(argv, check=True, text=True, capture_output=True).stdout.strip()
    manager.systemctl("start", "--wait", f"tdrlab-nightly@{instance}.service")
    words = lab.with_name("lab.called").read_text().split()
    assert words[:2] == ["nightly", "--share"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", words[2])
