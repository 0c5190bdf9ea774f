"""netconsole: the kernel log sent by UDP from within printk, so that a panic's lines leave too.

Set up through configfs (Documentation/networking/netconsole.rst), in the extended
form whose records have numbers; taken away again at the session's end.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from typing import Any, NamedTuple

from . import fileio
from .commands import Commands
from .errors import AgentError, target

__all__ = ["Netconsole"]

_BASE = "/sys/kernel/config/netconsole"
# Our own place there; the kernel's command line makes "cmdline0" and so on.
_NAME = "tdrlab"
_SECONDS = 10.0
_MODPROBE_SECONDS = 30.0
# What the neighbour is given to tell its address, in seconds.
_ARP_SECONDS = 2.0
_ARP_COMPLETE = 0x2  # ATF_COM, include/uapi/linux/if_arp.h
_UP_GATEWAY = 0x2  # RTF_GATEWAY, include/uapi/linux/route.h


class Route(NamedTuple):
    """How a host is reached: through which interface, from which address, by which neighbour."""

    interface: str
    local: str
    hop: str


class Netconsole:
    """The session's netconsole target."""

    def __init__(self, base: str = _BASE, proc: str = "/proc/net") -> None:
        self._base = base
        self._proc = proc
        self._path = os.path.join(base, _NAME)
        self._made = False

    def start(self, host: str, port: int, commands: Commands) -> dict[str, Any]:
        """Send what the kernel prints from now on to `host`, an IPv4 address:
        {"interface", "local", "mac"}.

        One that an agent before us left is replaced.  Raises AgentError (target) where the
        kernel has none, the host cannot be reached, or the interface cannot do it.
        """
        if not os.path.isdir(self._base):
            done = commands.run(["modprobe", "netconsole"], "", _MODPROBE_SECONDS)
            if not os.path.isdir(self._base):
                raise target(
                    "this kernel has no dynamic netconsole" + _said(done),
                    self._base,
                    "CONFIG_NETCONSOLE=m and CONFIG_NETCONSOLE_DYNAMIC=y;"
                    " mount -t configfs none /sys/kernel/config",
                )
        route = self._route(host)
        mac = self._mac(route, host, port)
        self._remove()
        self._made = True
        fileio.in_child(self._mkdir, self._path, "make", _SECONDS)
        try:
            for name, value in (
                ("extended", "1"),
                ("dev_name", route.interface),
                ("local_ip", route.local),
                ("remote_ip", host),
                ("remote_port", str(port)),
                ("remote_mac", mac),
            ):
                self._write(name, value)
            # Since 6.5; would put the release before each record.
            if os.path.exists(os.path.join(self._path, "release")):
                self._write("release", "0")
            self._write("enabled", "1")
        except AgentError as error:
            self.stop()
            raise target(
                f"netconsole on {route.interface} to {host}: {error.what}",
                error.where,
                "see the kernel log: an interface that is a bridge's or bond's slave, wireless,"
                " or whose driver cannot poll has no netconsole",
                error.number,
            ) from error
        return {"interface": route.interface, "local": route.local, "mac": mac}

    def stop(self) -> None:
        """Take it away.  Idempotent.  Raises AgentError (target)."""
        if self._made:
            self._remove()
            self._made = False

    def _remove(self) -> None:
        if not os.path.isdir(self._path):
            return
        if fileio.read(os.path.join(self._path, "enabled"), 16, _SECONDS)[0].strip() == b"1":
            self._write("enabled", "0")
        fileio.in_child(self._rmdir, self._path, "remove", _SECONDS)

    def _mkdir(self) -> bytes:
        os.mkdir(self._path)
        return b""

    def _rmdir(self) -> bytes:
        os.rmdir(self._path)
        return b""

    def _write(self, name: str, value: str) -> None:
        fileio.write(os.path.join(self._path, name), value.encode() + b"\n", _SECONDS)

    def _route(self, host: str) -> Route:
        """By the kernel's main table; the longest prefix wins, then the least metric."""
        number = _number(host)
        best: tuple[tuple[int, int], str, str] | None = None
        with open(os.path.join(self._proc, "route")) as table:
            for line in list(table)[1:]:
                fields = line.split()
                destination, gateway, flags, metric, mask = (
                    int(fields[column], base)
                    for column, base in ((1, 16), (2, 16), (3, 16), (6, 10), (7, 16))
                )
                if not flags & 1 or number & mask != destination:
                    continue
                rank = (bin(mask).count("1"), -metric)
                hop = _dotted(gateway) if flags & _UP_GATEWAY else host
                if best is None or rank > best[0]:
                    best = (rank, fields[0], hop)
        if best is None:
            raise target(f"there is no route to {host}", "", "netconsole.host in targets.toml")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 9))
            local = probe.getsockname()[0]
        return Route(best[1], local, best[2])

    def _mac(self, route: Route, host: str, port: int) -> str:
        """The neighbour's address, which netpoll must know beforehand: it asks nobody."""
        end = time.monotonic() + _ARP_SECONDS
        while True:
            with open(os.path.join(self._proc, "arp")) as table:
                for line in list(table)[1:]:
                    address, _, flags, mac, _, interface = line.split()[:6]
                    if (address, interface) == (route.hop, route.interface) and (
                        int(flags, 16) & _ARP_COMPLETE
                    ):
                        return mac
            if time.monotonic() > end:
                raise target(
                    f"{route.hop} does not tell its hardware address on {route.interface}",
                    "",
                    "is the host in the same network, or its gateway up?",
                )
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                # An empty datagram has the kernel ask for the neighbour.
                probe.sendto(b"", (host, port))
            time.sleep(0.05)


def _said(done: dict[str, Any]) -> str:
    said = str(done["stderr"]).strip()
    return f": {said[:200]}" if said else ""


def _number(address: str) -> int:
    """As /proc/net/route has it: the bytes in network order, read by this machine."""
    return int(struct.unpack("=I", socket.inet_aton(address))[0])


def _dotted(number: int) -> str:
    return socket.inet_ntoa(struct.pack("=I", number))
