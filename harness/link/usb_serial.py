"""The serial port of a USB adapter, wherever it is plugged in now.

Asks udev's library for the tty devices and reads what the adapter itself says of
itself in sysfs, so that it works without udev's database and its links in /dev.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyudev  # type: ignore[import-untyped]

from harness.errors import LabError
from harness.ways import SerialConsole

__all__ = ["Adapter", "adapters", "find"]


class Adapter:
    """A serial port behind USB."""

    def __init__(self, node: str, usb: str, serial: str, interface: int) -> None:
        self.node, self.usb, self.serial, self.interface = node, usb, serial, interface

    def __str__(self) -> str:
        return f"{self.node} ({self.usb}, {self.serial or 'no serial number'}, {self.interface})"

    def fits(self, spec: SerialConsole) -> bool:
        """Whether it is the one that `spec` means."""
        return (
            (spec.usb is None or spec.usb == self.usb)
            and (spec.serial is None or spec.serial == self.serial)
            and (spec.interface is None or spec.interface == self.interface)
        )


def adapters() -> Iterator[Adapter]:
    """All that are plugged in, in the order of their nodes."""
    found = pyudev.Context().list_devices(subsystem="tty")
    for device in sorted(found, key=lambda device: device.device_node or ""):
        usb = device.find_parent("usb", "usb_device")
        interface = device.find_parent("usb", "usb_interface")
        if device.device_node is None or usb is None or interface is None:
            continue
        yield Adapter(
            device.device_node,
            f"{_text(usb, 'idVendor')}:{_text(usb, 'idProduct')}",
            _text(usb, "serial"),
            int(_text(interface, "bInterfaceNumber") or "0", 16),
        )


def find(spec: SerialConsole, target: str) -> str:
    """The port of `spec`: its path.  Raises LabError where there is none, or more than one."""
    if spec.port is not None:
        return spec.port
    there = list(adapters())
    fitting = [adapter for adapter in there if adapter.fits(spec)]
    if len(fitting) == 1:
        return fitting[0].node
    wanted = ", ".join(filter(None, (spec.usb, spec.serial)))
    many = "no" if not fitting else f"{len(fitting)}"
    named = "; ".join(map(str, fitting or there)) or "none at all"
    raise LabError(
        f"{many} USB serial adapter(s) fit {wanted}; there: {named}",
        where=target,
        cure="plug it in"
        if not fitting
        else "name it with console.serial, its port with console.interface",
    )


def _text(device: pyudev.Device, name: str) -> str:
    value = device.attributes.get(name)
    return value.decode(errors="replace").strip() if value else ""
