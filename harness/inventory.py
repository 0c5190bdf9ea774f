"""targets.toml -> Target: what is configured, validated before anything is touched.

Pure data; reads one file, opens no connection.  An error names the file, the
line, what was expected and the nearest name.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from harness.errors import UsageError
from harness.tomlerror import explained, line_of, nearest, not_toml
from harness.ways import (
    AsIsBoot,
    BootWay,
    ConsoleWay,
    Kdump,
    Netconsole,
    NoConsole,
    NoPower,
    PowerWay,
    Seconds,
    Table,
    Watchdog,
    complaints,
    has_nmi,
)

__all__ = [
    "Coordinator",
    "Inventory",
    "Limits",
    "Policy",
    "Target",
    "VmSpec",
    "default_path",
    "load",
]


class Limits(Table, frozen=True):
    """How long things may take on this target, in seconds."""

    connect_s: Seconds = 20.0
    command_s: Seconds = 30.0
    boot_s: Seconds = 240.0
    # From submission of a hang to the fence's end; beyond it the promise is broken.
    tdr_s: Seconds = 60.0
    # Without a heartbeat of the agent's for so long, its link is given up.
    silence_s: Seconds = 30.0
    # How long one whose console still answers may be out of reach before it counts as dead.
    stall_s: Seconds = 120.0


class Policy(Table, frozen=True):
    """What the harness may do to this target on its own."""

    # When lockdep is off before a test that needs it: reboot, or run blind and say so.
    rearm: Literal["reboot", "never"] = "reboot"
    # Bytes of one raw stream kept per boot; beyond it the stream says it was cut.
    stream_limit: Annotated[int, Meta(ge=1 << 16)] = 256 << 20
    # Where the power control can raise an NMI: have one that nobody expects panic, for the stack.
    nmi_panic: bool = True
    # Record what fences do.  Off, no test accounts for its fences, and a note says so.
    trace: bool = True
    # KiB of the kernel's trace buffer for each CPU; too small a one loses events in a storm.
    trace_buffer_kb: Annotated[int, Meta(ge=16, le=1 << 20)] = 4096


class VmSpec(Table, frozen=True):
    """A machine of QEMU's: gives address, console, power and boot at once."""

    gpu: (
        Annotated[
            str,
            Meta(pattern=r"^[a-z0-9][a-z0-9,=._-]*$", description="a device of QEMU's, as ati-vga"),
        ]
        | None
    ) = None
    # Instead of gpu: a chip that a process of the lab's own models (tools/gen3).
    chip: Literal["g33", "945g"] | None = None
    memory_mib: Annotated[int, Meta(ge=256, le=65536)] = 1024
    cpus: Annotated[int, Meta(ge=1, le=64)] = 2
    cmdline: str = ""
    # A second machine boots while the first is tested, and is gone over to where lockdep must be
    # armed again: twice the memory, and a processor for some seconds, for no wait.
    spare: bool = False

    @property
    def card(self) -> str:
        """Its GPU, for people."""
        return self.gpu or f"modelled {self.chip}"


class Coordinator(Struct, frozen=True, kw_only=True):
    """A labgrid coordinator, which says who has which target, and how we go about it."""

    address: str
    take_over: Literal["dead", "never"]
    stale_s: float
    patience_s: float


class Target(Table, frozen=True):
    """A machine as targets.toml describes it."""

    driver: Literal["amdgpu", "i915"]
    name: str = ""
    address: (
        Annotated[str, Meta(pattern=r"^\S+$", description="a host name or IP address")] | None
    ) = None
    port: Annotated[int, Meta(ge=1, le=65535)] = 22
    user: Annotated[str, Meta(pattern=r"^[^\s-]\S*$", description="a user's name")] = "root"
    key: str | None = None
    # "SHA256:..." as ssh-keygen -l prints it, or "ssh-ed25519 AAAA..."
    host_key: str | None = None
    known_hosts: str | None = None
    # Which GPU, where the machine has several: 0000:03:00.0
    pci: (
        Annotated[
            str,
            Meta(
                pattern=r"^[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$",
                description="a PCI address as `lspci -D` prints it, as 0000:03:00.0",
            ),
        ]
        | None
    ) = None
    console: ConsoleWay = NoConsole()
    power: PowerWay = NoPower()
    boot: BootWay = AsIsBoot()
    netconsole: Netconsole | None = None
    watchdog: Watchdog | None = None
    kdump: Kdump = Kdump()
    vm: VmSpec | None = None
    # Of the labgrid coordinator: the place to reserve, or the tags that any such place has.
    place: Annotated[str, Meta(min_length=1)] | None = None
    reserve: dict[str, str] = msgspec.field(default_factory=dict)
    # Given by [lab].
    coordinator: Coordinator | None = None
    tags: tuple[str, ...] = ()
    destructive: bool = False
    limits: Limits = Limits()
    policy: Policy = Policy()

    @property
    def virtual(self) -> bool:
        """Whether the harness starts this machine itself."""
        return self.vm is not None

    @property
    def shared(self) -> bool:
        """Whether a coordinator says who has it."""
        return self.place is not None or bool(self.reserve)

    @property
    def filters(self) -> dict[str, str]:
        """What to reserve it by."""
        return {"name": self.place} if self.place is not None else dict(self.reserve)

    @property
    def nmi(self) -> bool:
        """Whether what powers it can raise an NMI in it."""
        return self.virtual or has_nmi(self.power)

    def public(self) -> dict[str, Any]:
        """The target as evidence may show it: no key paths, no command lines with secrets."""
        built: dict[str, Any] = msgspec.to_builtins(self)
        built.pop("key")
        built.pop("coordinator")
        for way in ("power", "console"):
            built[way] = {"kind": built[way]["kind"]}
        return built


class _Lab(Table, frozen=True):
    runs: str = "runs"
    # Where the history is kept, as a database's URL; beside the runs where this is empty.
    history: str = ""
    # Gets a night's summary on its stdin.
    notify: tuple[str, ...] = ()
    # A labgrid coordinator, as "labhost:20408".
    coordinator: (
        Annotated[str, Meta(pattern=r"^[^\s/-][^\s/]*$", description="HOST or HOST:PORT")] | None
    ) = None
    # Take a place over whose owner says nothing any more; from labgrid-client's users, never.
    take_over: Literal["dead", "never"] = "dead"
    # After how long of silence an owner is dead.
    stale_s: Seconds = 60.0
    # How long to wait for a coordinator, or an exporter, that is away.
    patience_s: Seconds = 120.0


class _File(Table, frozen=True):
    lab: _Lab = _Lab()
    targets: dict[str, Target] = msgspec.field(default_factory=dict)


class Inventory(Struct, frozen=True):
    """All targets of one file, by name."""

    path: Path
    runs: Path
    targets: dict[str, Target]
    history: str = ""
    notify: tuple[str, ...] = ()
    coordinator: Coordinator | None = None

    def get(self, name: str) -> Target:
        """The target called `name`.  Raises UsageError with the nearest name."""
        if name in self.targets:
            return self.targets[name]
        raise UsageError(
            f"no target named {name!r}{nearest(name, self.targets)}",
            where=str(self.path),
            cure=f"choose one of: {', '.join(sorted(self.targets)) or '(none configured)'}",
        )

    def virtual(self) -> list[Target]:
        """Targets the harness starts itself, in the file's order."""
        return [target for target in self.targets.values() if target.virtual]


def default_path() -> Path:
    """$LAB_TARGETS, else targets.toml here, else the one beside the harness."""
    if given := os.environ.get("LAB_TARGETS"):
        return Path(given)
    here = Path("targets.toml")
    return here if here.exists() else Path(__file__).resolve().parent.parent / "targets.toml"


def load(path: Path) -> Inventory:
    """Read and validate `path`.

    Raises UsageError naming file, line, what was expected and the nearest name.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"cannot read the target list: {error.strerror or error}",
            where=str(path),
            cure="write it, or name another with --inventory FILE or $LAB_TARGETS",
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(
            f"the target list is not UTF-8 text: {error.reason} at byte {error.start}",
            where=f"{path}:{error.object[: error.start].count(10) + 1}",
            cure="save it as UTF-8, or name another with --inventory FILE or $LAB_TARGETS",
        ) from error
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise not_toml(path, text, error) from error
    try:
        parsed = msgspec.convert(raw, _File)
    except msgspec.ValidationError as error:
        raise explained(path, text, raw, _File, error) from error
    targets = {}
    lab = parsed.lab
    coordinator = lab.coordinator and Coordinator(
        address=lab.coordinator,
        take_over=lab.take_over,
        stale_s=lab.stale_s,
        patience_s=lab.patience_s,
    )
    for name, target in parsed.targets.items():
        _check(path, text, name, target)
        if target.shared and not coordinator:
            line = line_of(text, ("targets", name, "reserve" if target.reserve else "place"))
            raise UsageError(
                f"target {name!r}: is a place, but there is no coordinator",
                where=f"{path}:{line}",
                cure='[lab] coordinator = "HOST:20408"',
            )
        targets[name] = msgspec.structs.replace(
            target,
            name=name,
            key=_beside(path, target.key),
            known_hosts=_beside(path, target.known_hosts),
            coordinator=(coordinator or None) if target.shared else None,
        )
    return Inventory(
        path=path,
        runs=path.resolve().parent / parsed.lab.runs,
        targets=targets,
        history=parsed.lab.history,
        notify=parsed.lab.notify,
        coordinator=coordinator or None,
    )


def is_loopback(address: str) -> bool:
    """Whether `address` is this very machine by its spelling."""
    name = address.casefold().rstrip(".")
    if name in ("localhost", "ip6-localhost", "ip6-loopback", socket.gethostname().casefold()):
        return True
    if name.endswith((".localhost", ".localdomain")) and name.startswith("localhost"):
        return True
    try:
        # What connect() takes for an IPv4 address: also 127.1 and 0x7f000001.
        ip = ipaddress.ip_address(socket.inet_aton(name))
    except (OSError, UnicodeError):
        try:
            found = ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return name.endswith(".localhost")
        ip = getattr(found, "ipv4_mapped", None) or found
    return ip.is_loopback or ip.is_unspecified


def _beside(path: Path, name: str | None) -> str | None:
    """A file named in `path`: ~ is this user's home, a relative one is beside that file."""
    return None if name is None else str(path.absolute().parent / Path(name).expanduser())


def _check(path: Path, text: str, name: str, target: Target) -> None:
    """What the types cannot say."""

    def bad(key: str, what: str, cure: str) -> UsageError:
        line = line_of(text, ("targets", name, key))
        return UsageError(f"target {name!r}: {what}", where=f"{path}:{line}", cure=cure)

    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", name):
        raise bad(
            "", "the name becomes part of file names", "use letters, digits, '.', '_' and '-' only"
        )
    if target.name:
        raise bad("name", "the name is given by the table header", "remove this key")
    if target.coordinator is not None:
        raise bad("coordinator", "the coordinator is the lab's", "[lab] coordinator = ...")
    for key in target.reserve:
        # labgrid, remote/common.py, TAG_KEY
        if not re.fullmatch(r"[a-z][a-z0-9_]+", key) or key == "name":
            raise bad("reserve", f"{key!r} is no tag of a place", 'as gen3 = "yes"')
    if target.place is not None and target.reserve:
        raise bad("reserve", "has both a place and tags of places", "keep one of them")
    if target.vm is not None and target.address is not None:
        raise bad("vm", "has both an address and a vm", "keep one of them")
    if target.vm is not None and (target.vm.gpu is None) == (target.vm.chip is None):
        both = "both a gpu and a chip" if target.vm.gpu else "neither a gpu nor a chip"
        raise bad("vm", f"its vm has {both}", 'give it one: gpu = "ati-vga", or chip = "g33"')
    if target.vm is None and target.address is None and not target.shared:
        raise bad("", "has neither an address nor a vm", 'add address = "host or IP"')
    keyless = target.host_key is None and target.known_hosts is None
    # A place may have its key as a tag (harness/labgrid).
    if target.vm is None and keyless and (target.address is not None or not target.shared):
        raise bad(
            "address",
            "no host key: the harness will not trust whoever answers",
            f'add host_key = "SHA256:..." (ssh-keyscan {target.address} | ssh-keygen -lf -)'
            ' or known_hosts = "FILE"',
        )
    if target.destructive and target.address is not None and is_loopback(target.address):
        raise bad(
            "destructive",
            "is this very machine; hanging its GPU would take the harness with it",
            "remove destructive = true, or name another machine",
        )
    for key, what, cure in complaints(target.power, target.console):
        raise bad(key, what, cure)
