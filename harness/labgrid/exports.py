"""A target from what its place is made of: address, console, power.

What the target list says itself comes first; an export of a kind that is not known here is
named, and left alone.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

from harness import ways
from harness.errors import LabError, UsageError
from harness.inventory import Target, is_loopback
from harness.labgrid.places import Export, Place

__all__ = ["completed"]

# labgrid's resource classes, by the key that they give; labgrid/resource/.
_SERVICE = ("NetworkService",)
_CONSOLE = ("NetworkSerialPort",)
_POWER = ("NetworkPowerPort", "PDUDaemonPort")
_PDUDAEMON_PORT = 16421
# As of a target whose entry says nothing else.
_SSH_PORT, _USER = 22, "root"
# Seconds for a socket of a PDU, of whatever kind, to discharge what hangs on it.
_SETTLE_S = 10.0

Parts = Sequence[tuple[str, Export]]


def completed(target: Target, place: Place, parts: Parts) -> Target:
    """`target` with what it lacks taken from the parts of its `place`, which is acquired.

    Raises UsageError where the place does not say enough, LabError where an exporter is away.
    """
    if target.virtual:
        return target  # the place is its lock, and nothing more
    found: dict[str, Any] = {}
    if target.address is None:
        found |= _address(target, place, _one(place, parts, _SERVICE, "address"))
    if isinstance(target.console, ways.NoConsole):
        serial = _one(place, parts, _CONSOLE, "console")
        found |= {"console": _console(place, serial)} if serial else {}
    if isinstance(target.power, ways.NoPower):
        outlet = _one(place, parts, _POWER, "power")
        found |= {"power": _power(place, outlet)} if outlet else {}
    if target.host_key is None and target.known_hosts is None:
        found["host_key"] = _host_key(target, place)
    made = msgspec.structs.replace(target, **found)
    if made.destructive and made.address is not None and is_loopback(made.address):
        raise UsageError(
            "the place's address is this very machine; hanging its GPU would take us with it",
            where=f"{target.name}: place {place.name}",
            cure="export the target's own address, or remove destructive = true",
        )
    return made


def _one(place: Place, parts: Parts, kinds: Iterable[str], called: str) -> Export | None:
    """The part of one of these classes; of several the one that the place calls so."""
    some = [(name, export) for name, export in parts if export.cls in kinds]
    if len(some) > 1:
        some = [(name, export) for name, export in some if name == called]
        if len(some) != 1:
            raise UsageError(
                f"has several of {', '.join(kinds)}, and not one of them is called {called!r}",
                where=f"place {place.name}",
                cure=f"labgrid-client -p {place.name} add-named-match EXPORTER/GROUP/CLASS/NAME"
                f" {called}",
            )
    if not some:
        return None
    export = some[0][1]
    if not export.avail:
        raise LabError(
            f"{export.path} is not available: its device is unplugged, or broken",
            where=f"place {place.name}",
            cure=f"look at exporter {export.exporter}",
        )
    if export.extra.get("proxy_required"):
        raise UsageError(
            f"{export.path} is only to be had through an SSH proxy",
            where=f"place {place.name}",
            cure="start its exporter without --isolated, in a network that this host is in",
        )
    return export


def _address(target: Target, place: Place, service: Export | None) -> dict[str, Any]:
    if service is None:
        raise LabError(
            "has no address, and its place has no NetworkService",
            where=f"{target.name}: place {place.name}",
            cure="export one, or add address = ... to the target list",
        )
    found: dict[str, Any] = {"address": _word(place, service, "address")}
    if target.port == _SSH_PORT:
        found["port"] = _number(place, service, "port", _SSH_PORT)
    if target.user == _USER:
        found["user"] = str(service.params.get("username") or _USER)
    return found


def _host_key(target: Target, place: Place) -> str:
    tag = place.tags.get("host_key", "")
    if not tag:
        raise UsageError(
            "no host key: the harness will not trust whoever answers",
            where=f"{target.name}: place {place.name}",
            cure='host_key = "SHA256:..." in the target list, or'
            f" `labgrid-client -p {place.name} set-tags host_key=SHA256:...`",
        )
    return tag


def _console(place: Place, serial: Export) -> ways.ConsoleWay:
    # The raw line: labgrid's ShellDriver would turn the kernel's messages off.
    host, port = _word(place, serial, "host"), _number(place, serial, "port", 0)
    if serial.params.get("protocol", "rfc2217") == "raw":
        return ways.TcpConsole(host=host, port=port)
    return ways.Rfc2217Console(host=host, port=port, baud=_number(place, serial, "speed", 115200))


def _power(place: Place, outlet: Export) -> ways.PowerWay:
    host, index = _word(place, outlet, "host"), _word(place, outlet, "index")
    if not index.isdecimal():
        # Another outlet is another machine's power.
        raise _unusable(place, outlet, f"its index is no number: {index!r}")
    if outlet.cls == "PDUDaemonPort":
        split = urlsplit(host if "//" in host else f"//{host}")
        try:
            url = f"http://{split.hostname}:{split.port or _PDUDAEMON_PORT}"
        except ValueError as error:
            raise _unusable(place, outlet, f"its host is {host!r}: {error}") from error
        return ways.PdudaemonPower(
            url=url, pdu=_word(place, outlet, "pdu"), outlet=int(index), settle_s=_SETTLE_S
        )
    # A process of its own: labgrid's back ends know no time limit.
    words = (sys.executable, "-m", "harness.labgrid.pdu", _word(place, outlet, "model"), host)
    return ways.CommandPower(
        on=(*words, index, "on"),
        off=(*words, index, "off"),
        query=(*words, index, "query"),
        settle_s=_SETTLE_S,
    )


def _word(place: Place, export: Export, key: str) -> str:
    if export.params.get(key) is None:
        raise _unusable(place, export, f"it has no {key}")
    return str(export.params[key])


def _unusable(place: Place, export: Export, why: str) -> LabError:
    return LabError(
        f"{export.path} is of no use: {why}",
        where=f"place {place.name}",
        cure=f"mend the configuration of exporter {export.exporter}",
    )


def _number(place: Place, export: Export, key: str, default: int) -> int:
    told = export.params.get(key)
    try:
        number = default if told is None else int(str(told))
    except ValueError:
        number = 0
    if number <= 0 and key == "port":
        raise LabError(
            f"{export.path} has no port yet: {told!r}",
            where=f"place {place.name}",
            cure=f"did exporter {export.exporter} start ser2net? see its log",
        )
    return number
