"""Real servers of a lab on free loopback ports: ser2net, ipmi_sim, pdudaemon, a QEMU.

Each is started by the test that needs it; where its Debian package is absent the test
is skipped with the package's name.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import shutil
import socket
import subprocess
import termios
import tty
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.tests.loopback.sshd import free_port

__all__ = ["PASSWORD", "Serial", "bmc", "needed", "paused_qemu", "pdudaemon", "ser2net", "until"]

PATIENCE_S = 60.0
PASSWORD = "sesame-open"


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for what must come."""
    deadline = Deadline(PATIENCE_S)
    while not condition():
        assert deadline.pause(0.02), f"did not happen: {what}"


def needed(name: str, package: str) -> str:
    """Its path; skips the test where it is not installed."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"no {name} here: apt-get install {package}")
    return found


class Serial:
    """A serial line of which one end is a machine's: what it says, and what it is told."""

    def __init__(self) -> None:
        self._machine, self._port = pty.openpty()
        tty.setraw(self._port)
        os.set_blocking(self._machine, False)
        self.path = os.ttyname(self._port)

    @property
    def machine(self) -> int:
        """The machine's end, to be selected."""
        return self._machine

    def say(self, data: bytes) -> None:
        while data:
            with contextlib.suppress(BlockingIOError):
                data = data[os.write(self._machine, data) :]

    def told(self) -> bytes:
        """What came since last asked."""
        with contextlib.suppress(BlockingIOError):
            return os.read(self._machine, 1 << 16)
        return b""

    def speed(self) -> int:
        """The port's, as a constant of termios."""
        return int(termios.tcgetattr(self._port)[4])

    def close(self) -> None:
        os.close(self._port)
        os.close(self._machine)


@contextlib.contextmanager
def _running(argv: list[str], port: int, folder: Path, env: dict[str, str]) -> Iterator[None]:
    """A server, once it accepts on TCP `port`; 0: once it is started."""
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, env=env
        )

    def accepts() -> bool:
        assert process.poll() is None, (folder / "server.log").read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        return False

    try:
        if port:
            until(accepts, f"{argv[0]} accepts")
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def ser2net(folder: Path, serial: Serial, accepter: str, port: int | None = None) -> Iterator[int]:
    """ser2net with `serial` behind `accepter` ("tcp", "telnet", "telnet(rfc2217=true)"); its
    port."""
    program = needed("ser2net", "ser2net")
    port = port or free_port()
    over = "tcp" if accepter == "tcp" else f"{accepter},tcp"
    (folder / "ser2net.yaml").write_text(
        "%YAML 1.1\n---\n"
        "connection: &box\n"
        f"  accepter: {over},localhost,{port}\n"
        f"  connector: serialdev,{serial.path},9600n81,local\n"
        "  options:\n    kickolduser: true\n"
    )
    # Not the check of TCP's port: each connection takes the serial port.
    argv = [program, "-n", "-d", "-u", "-c", str(folder / "ser2net.yaml")]
    with _running(argv, 0, folder, dict(os.environ)):
        until(lambda: _listens(port), "ser2net listens")
        yield port


def _listens(port: int) -> bool:
    """Whether somebody does on 127.0.0.1 or ::1, looked up without a connection."""
    wanted = f":{port:04X} "
    return any(
        wanted in line and line.split()[3] == "0A"  # TCP_LISTEN, include/net/tcp_states.h
        for name in ("tcp", "tcp6")
        for line in Path("/proc/net", name).read_text().splitlines()
        if wanted in line.split()[1] + " "
    )


@contextlib.contextmanager
def bmc(folder: Path, serial: Serial) -> Iterator[int]:
    """A simulated BMC with a user "lab", chassis power, and `serial` as its SOL; its UDP port."""
    simulator = needed("ipmi_sim", "openipmi")
    tool = needed("ipmitool", "ipmitool")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    chassis = folder / "chassis"
    chassis.write_text(
        "#!/bin/sh\n"
        f'echo "$2 $3 $4" >> {folder}/chassis.log\n'
        f'case "$2 $3" in\n'
        f'"get power") echo "power:$(cat {folder}/power 2>/dev/null || echo 0)";;\n'
        f'"set power") echo "$4" > {folder}/power;;\n'
        "esac\n"
    )
    chassis.chmod(0o755)
    every = "none md2 md5 straight"
    (folder / "lan.conf").write_text(
        'name "box"\nset_working_mc 0x20\n'
        f"startlan 1\naddr 127.0.0.1 {port}\npriv_limit admin\n"
        + "".join(f"allowed_auths_{level} {every}\n" for level in ("user", "operator", "admin"))
        + "guid a123456789abcdefa123456789abcdef\nendlan\n"
        f'chassis_control "{chassis} 0x20"\n'
        f'sol "{serial.path}" 115200\n'
        f'user 2 true "lab" "{PASSWORD}" admin 10 {every}\n'
    )
    (folder / "commands").write_text(
        "mc_setbmc 0x20\nmc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02\nmc_enable 0x20\n"
    )
    (folder / "state").mkdir()
    names = ("-c", "lan.conf", "-f", "commands", "-s", "state")
    with _running([simulator, "-n", *names], 0, folder, dict(os.environ)):
        ask = [tool, "-I", "lanplus", "-H", "127.0.0.1", "-p", str(port), "-C", "3", "-U", "lab"]
        ask += ["-P", PASSWORD, "-N", "1", "-R", "1", "mc", "guid"]
        until(lambda: subprocess.run(ask, capture_output=True).returncode == 0, "the BMC answers")
        yield port


@contextlib.contextmanager
def pdudaemon(folder: Path) -> Iterator[str]:
    """One with a PDU "rack" whose outlets append "N on" and "N off" to `outlets`; its URL."""
    program = needed("pdudaemon", "pdudaemon")
    port = free_port()
    log = folder / "outlets"
    config = {
        "daemon": {
            "hostname": "127.0.0.1",
            "port": port,
            "logging_level": "DEBUG",
            "listener": "http",
        },
        "pdus": {
            "rack": {
                "driver": "localcmdline",
                "cmd_on": f"echo '%s on' >> {log}",
                "cmd_off": f"echo '%s off' >> {log}",
            }
        },
    }
    (folder / "pdudaemon.conf").write_text(json.dumps(config))
    argv = [program, f"--conf={folder / 'pdudaemon.conf'}"]
    # It is a program of the distribution's: the tests' own Python would not know its modules.
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
    with _running(argv, port, folder, {**env, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}):
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def paused_qemu(folder: Path) -> Iterator[Path]:
    """A QEMU that somebody else runs, stopped before its first instruction; its QMP socket."""
    program = needed("qemu-system-x86_64", "qemu-system-x86")
    path = folder / "qmp"
    argv = [program, "-nodefaults", "-no-user-config", "-display", "none", "-S", "-m", "16"]
    argv += ["-accel", "tcg", "-qmp", "unix:qmp,server=on,wait=off"]
    with _running(argv, 0, folder, dict(os.environ)):
        until(path.is_socket, "QEMU's monitor")
        yield path
