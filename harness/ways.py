"""The ways into a target as targets.toml describes them: console, power, boot, last words.

Pure data of harness.inventory's; what it cannot say in types, `complaint` says in words.
Passwords are named, never written: by a variable of the environment, or a file.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta, Struct

__all__ = [
    "Argv",
    "AsIsBoot",
    "Bmc",
    "BootWay",
    "CommandConsole",
    "CommandPower",
    "ConsoleWay",
    "GrubBoot",
    "IpmiPower",
    "Kdump",
    "Netconsole",
    "NoConsole",
    "NoPower",
    "PdudaemonPower",
    "PowerWay",
    "PxeBoot",
    "QemuPower",
    "Rfc2217Console",
    "Seconds",
    "SerialConsole",
    "SocketConsole",
    "SolConsole",
    "SystemdBoot",
    "Table",
    "TcpConsole",
    "TelnetConsole",
    "Watchdog",
    "complaints",
    "has_nmi",
]

Seconds = Annotated[float, Meta(gt=0, le=86400)]
Argv = Annotated[tuple[str, ...], Meta(min_length=1)]
Port = Annotated[int, Meta(ge=1, le=65535)]
Baud = Annotated[int, Meta(gt=0)]
Host = Annotated[str, Meta(pattern=r"^[^\s-]\S*$", description="a host name or IP address")]
File = Annotated[str, Meta(pattern=r"^(/|~)", description="an absolute path, or one from ~")]
Directory = Annotated[str, Meta(pattern=r"^/", description="an absolute path")]


class Table(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A TOML table of which every key is known."""


class Bmc(Table, frozen=True):
    """A baseboard management controller that speaks IPMI over LAN."""

    host: Host
    port: Port = 623
    user: str = ""
    # One of the two; a password never stands in targets.toml.
    password_env: str | None = None
    password_file: str | None = None
    # ipmitool's -I and -C
    interface: str = "lanplus"
    cipher: Annotated[int, Meta(ge=0, le=17)] | None = None


# -- power -------------------------------------------------------------------------


class NoPower(Table, frozen=True, tag_field="kind", tag="none"):
    """No way to cut power: a dead target stays dead until someone walks there."""


class CommandPower(Table, frozen=True, tag_field="kind", tag="command"):
    """Power through commands on this host, each an argv list; exit 0 means done."""

    on: Argv
    off: Argv
    # Prints a line with "on" or "off".
    query: Argv | None = None
    # Raises a non-maskable interrupt in the machine.
    nmi: Argv | None = None
    settle_s: Seconds = 5.0


class PdudaemonPower(Table, frozen=True, tag_field="kind", tag="pdudaemon"):
    """An outlet that a pdudaemon switches; it tells no state."""

    url: Annotated[
        str, Meta(pattern=r"^https?://[^\s@]+$", description="a URL, as http://localhost:16421")
    ]
    # As pdudaemon's own configuration names it.
    pdu: str
    outlet: Annotated[int, Meta(ge=0)]
    # From a request's acceptance until the relay has moved, and the supply is discharged.
    settle_s: Seconds = 10.0


class IpmiPower(Bmc, frozen=True, tag_field="kind", tag="ipmi"):
    """Chassis power of a BMC, by ipmitool."""

    settle_s: Seconds = 5.0


class QemuPower(Table, frozen=True, tag_field="kind", tag="qemu"):
    """A machine of QEMU's that somebody else runs, by its QMP socket."""

    socket: File


PowerWay = NoPower | CommandPower | PdudaemonPower | IpmiPower | QemuPower

# -- console -----------------------------------------------------------------------


class NoConsole(Table, frozen=True, tag_field="kind", tag="none"):
    """No console: the last lines before a death are what SSH still carried."""


class SerialConsole(Table, frozen=True, tag_field="kind", tag="serial"):
    """A serial port of this host: by path, or by its USB adapter wherever that is plugged in."""

    port: str | None = None
    usb: (
        Annotated[
            str,
            Meta(
                pattern=r"^[0-9a-f]{4}:[0-9a-f]{4}$",
                description="a USB id as `lsusb` prints it, as 0403:6001",
            ),
        ]
        | None
    ) = None
    # The adapter's serial number, and which of its ports where it has several.
    serial: str | None = None
    interface: Annotated[int, Meta(ge=0, le=15)] | None = None
    baud: Baud = 115200


class TcpConsole(Table, frozen=True, tag_field="kind", tag="tcp"):
    """A console's bytes over TCP, nothing else (ser2net's `tcp` accepter)."""

    host: Host
    port: Port


class TelnetConsole(Table, frozen=True, tag_field="kind", tag="telnet"):
    """A console over telnet (ser2net, a terminal server)."""

    host: Host
    port: Port


class Rfc2217Console(Table, frozen=True, tag_field="kind", tag="rfc2217"):
    """A serial port over telnet, whose speed and BREAK we command (ser2net, RFC 2217)."""

    host: Host
    port: Port
    baud: Baud = 115200


class SolConsole(Bmc, frozen=True, tag_field="kind", tag="ipmi-sol"):
    """Serial over LAN of a BMC, by ipmitool."""


class SocketConsole(Table, frozen=True, tag_field="kind", tag="socket"):
    """A Unix socket that carries a console (a virtual machine's)."""

    path: File


class CommandConsole(Table, frozen=True, tag_field="kind", tag="command"):
    """A console through a command on this host (conserver's `console`, amtterm)."""

    argv: Argv
    # What to type for a BREAK, as conserver's "\u0005cl0".
    send_break: str | None = None


ConsoleWay = (
    NoConsole
    | SerialConsole
    | TcpConsole
    | TelnetConsole
    | Rfc2217Console
    | SolConsole
    | SocketConsole
    | CommandConsole
)

# -- boot --------------------------------------------------------------------------


class AsIsBoot(Table, frozen=True, tag_field="kind", tag="as-is"):
    """Whatever the machine boots by itself is what is tested."""


class GrubBoot(Table, frozen=True, tag_field="kind", tag="grub"):
    """A GRUB entry that is taken once: the boot after it is the default one again."""

    boot: Directory = "/boot"
    grub: Directory = "/boot/grub"
    modules: Directory = "/lib/modules"
    # Makes an initramfs there, of a kernel that comes with modules alone: FILE RELEASE follow.
    initramfs: Argv | None = None


class SystemdBoot(Table, frozen=True, tag_field="kind", tag="systemd-boot"):
    """A systemd-boot entry that is taken once: the boot after it is the default one again."""

    # $BOOT: the XBOOTLDR partition, or else the ESP; `bootctl -x` prints it.
    boot: Directory = "/boot"
    modules: Directory = "/lib/modules"
    # As GrubBoot's.
    initramfs: Argv | None = None


class PxeBoot(Table, frozen=True, tag_field="kind", tag="pxe"):
    """Files of an iPXE or PXELINUX boot in a directory of this host that a server shows."""

    directory: File
    mac: Annotated[
        str,
        Meta(
            pattern=r"^[0-9a-f]{2}(:[0-9a-f]{2}){5}$",
            description="a MAC address in lower case, as 52:54:00:12:34:56",
        ),
    ]
    # Where the machine sees that directory: an iPXE script's base; none: PXELINUX over TFTP.
    url: str | None = None
    modules: Directory = "/lib/modules"
    # On the machine: which modules there are ours.
    notes: Directory = "/var/lib/tdrlab"


BootWay = AsIsBoot | GrubBoot | SystemdBoot | PxeBoot

# -- last words --------------------------------------------------------------------


class Netconsole(Table, frozen=True):
    """The kernel log by UDP, from where even a panic is sent."""

    # Where the target sends to; by default where our SSH connection comes from, as it sees that.
    host: Annotated[str, Meta(pattern=r"^\d+(\.\d+){3}$", description="an IPv4 address")] | None = (
        None
    )
    # 0: any free one.
    port: Annotated[int, Meta(ge=0, le=65535)] = 0
    # Bytes a second that are kept, in the long run; what a flood has beyond is counted.
    rate: Annotated[int, Meta(ge=1 << 10)] = 4 << 20


class Watchdog(Table, frozen=True):
    """A hardware watchdog: it resets a machine that nobody feeds, where nobody can cut power."""

    device: Annotated[str, Meta(pattern=r"^/dev/\S+$", description="a file in /dev")] = (
        "/dev/watchdog"
    )
    timeout_s: Annotated[int, Meta(ge=5, le=3600)] = 60
    # Loaded first, if given; udev loads what has a PCI id by itself.
    module: Annotated[str, Meta(pattern=r"^\w+$", description="a module's name")] | None = None


class Kdump(Table, frozen=True):
    """Where the crash kernel of a machine's own set-up writes, if it has one."""

    directory: Directory = "/var/crash"
    # How long it may take to write and to boot again, beside limits.boot_s.
    seconds: Seconds = 300.0
    # MiB of a dead kernel's memory that are copied; a larger one stays where it lies.
    vmcore_mib: Annotated[int, Meta(ge=0)] = 0


def complaints(power: PowerWay, console: ConsoleWay) -> Iterator[tuple[str, str, str]]:
    """What the types cannot say: (key, what is wrong, its cure)."""
    for key, way in (("power", power), ("console", console)):
        if isinstance(way, Bmc) and way.password_env and way.password_file:
            yield key, "its password is named twice", "keep password_env or password_file"
        if isinstance(way, Bmc) and way.user and not (way.password_env or way.password_file):
            yield (
                key,
                "its BMC's user has no password",
                f'{key}.password_env = "VARIABLE", or {key}.password_file = "FILE"',
            )
    if isinstance(console, SerialConsole):
        by_usb = console.usb or console.serial
        if console.port is None and not by_usb:
            yield (
                "console",
                "the key 'port' is missing, and there is neither usb nor serial instead",
                'port = "/dev/serial/by-id/...", or usb = "0403:6001", serial = "..."',
            )
        if console.port is not None and by_usb:
            yield (
                "console",
                "its port is named both by path and by USB",
                "keep port, or usb and serial",
            )


def has_nmi(power: PowerWay) -> bool:
    """Whether this way can raise a non-maskable interrupt."""
    return isinstance(power, IpmiPower | QemuPower) or (
        isinstance(power, CommandPower) and power.nmi is not None
    )
