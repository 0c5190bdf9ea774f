"""Every DRM card of this machine, with what makes two of them comparable.

From sysfs (Documentation/ABI/testing/sysfs-bus-pci, sysfs-class-drm in
drivers/gpu/drm/drm_sysfs.c) and, for firmware, amdgpu's debugfs.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from typing import Any

from . import fileio
from .errors import AgentError

__all__ = ["cards"]

_DEBUG_LIMIT = 1 << 16


def cards(sys: str = "/sys", debug_seconds: float = 5.0) -> list[dict[str, Any]]:
    """One object a card, by number; see `_card` for its members.  [] without DRM.

    `sys` is where sysfs is mounted; `debug_seconds` limits the debugfs reads.
    """
    root = f"{sys}/class/drm"
    try:
        names = os.listdir(root)
    except OSError:
        return []
    numbers = sorted(int(n[4:]) for n in names if n.startswith("card") and n[4:].isdigit())
    return [_card(sys, number, names, debug_seconds) for number in numbers]


def _card(sys: str, number: int, names: list[str], debug_seconds: float) -> dict[str, Any]:
    name = f"card{number}"
    device = f"{sys}/class/drm/{name}/device"
    driver = _driver(device)
    render = [n for n in _names(f"{device}/drm") if n.startswith("renderD")]
    return {
        "name": name,
        "primary": f"/dev/dri/{name}",
        "render": f"/dev/dri/{render[0]}" if render else None,
        "driver": driver,
        "pci": _pci_address(device),
        "vendor": _number(f"{device}/vendor"),
        "device": _number(f"{device}/device"),
        "subsystem_vendor": _number(f"{device}/subsystem_vendor"),
        "subsystem_device": _number(f"{device}/subsystem_device"),
        "revision": _number(f"{device}/revision"),
        "connectors": [
            _connector(f"{sys}/class/drm/{n}", n[len(name) + 1 :], debug_seconds)
            for n in sorted(names)
            if n.startswith(f"{name}-")
        ],
        "firmware": _debug(f"{sys}/kernel/debug/dri/{number}/amdgpu_firmware_info", debug_seconds),
        "vbios": _text(f"{device}/vbios_version"),
        "runtime_pm": {
            "control": _text(f"{device}/power/control"),
            "status": _text(f"{device}/power/runtime_status"),
        },
        "module": _module(sys, device, driver),
        "engines": _engines(f"{sys}/class/drm/{name}/engine"),
    }


def _driver(device: str) -> str | None:
    """By its link; of a device that is nothing but its driver's idea, such as vgem's, by its
    name: it has none up to 6.15, and later everybody's (drivers/base/faux.c)."""
    linked = _link(f"{device}/driver")
    if linked in (None, "faux_driver") and _link(f"{device}/subsystem") in ("platform", "faux"):
        return os.path.basename(os.path.realpath(device))
    return linked


def _connector(path: str, name: str, seconds: float) -> dict[str, Any]:
    status, modes = _text(f"{path}/status"), _text(f"{path}/modes")
    if status == "unknown" or (status == "connected" and not modes):
        # Nobody has looked yet: no console and no client uses the card (drm_sysfs.c, status_store).
        # A driver that found a monitor by itself, as i915's hotplug does, has not read its EDID.
        with contextlib.suppress(AgentError):
            fileio.write(f"{path}/status", b"detect\n", seconds)
    try:
        with open(f"{path}/edid", "rb") as file:
            edid = file.read()
    except OSError:
        edid = b""
    return {
        "name": name,
        "status": _text(f"{path}/status"),
        "enabled": _text(f"{path}/enabled"),
        "modes": (_text(f"{path}/modes") or "").split(),
        "edid_sha256": hashlib.sha256(edid).hexdigest() if edid else None,
    }


def _engines(path: str) -> dict[str, dict[str, str]]:
    """Every engine's settings, where the driver shows them (i915/gt/sysfs_engines.c)."""
    engines = {}
    for engine in _names(path):
        settings = {name: _text(f"{path}/{engine}/{name}") for name in _names(f"{path}/{engine}")}
        engines[engine] = {name: text for name, text in settings.items() if text is not None}
    return engines


def _module(sys: str, device: str, driver: str | None) -> dict[str, Any] | None:
    """The driver's module: its name is the driver's only by custom, so the link decides."""
    name = _link(f"{device}/driver/module") or driver
    path = f"{sys}/module/{name}"
    if name is None or not os.path.isdir(path):
        return None
    parameters = {}
    for parameter in sorted(_names(f"{path}/parameters")):
        value = _text(f"{path}/parameters/{parameter}")
        if value is not None:
            parameters[parameter] = value
    return {
        "name": name,
        "srcversion": _text(f"{path}/srcversion"),
        "version": _text(f"{path}/version"),
        "parameters": parameters,
    }


def _pci_address(device: str) -> str | None:
    return (
        os.path.basename(os.path.realpath(device))
        if _link(f"{device}/subsystem") == "pci"
        else None
    )


def _names(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except OSError:
        return []


def _link(path: str) -> str | None:
    return os.path.basename(os.path.realpath(path)) if os.path.islink(path) else None


def _text(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read().strip()
    except OSError:
        return None


def _number(path: str) -> int | None:
    text = _text(path)
    return int(text, 16) if text else None


def _debug(path: str, seconds: float) -> str | None:
    """A debugfs text; it asks the driver, which may be stuck, so with a limit."""
    try:
        data, _ = fileio.read(path, _DEBUG_LIMIT, seconds)
    except AgentError:
        return None
    return data.decode("utf-8", "surrogateescape")
