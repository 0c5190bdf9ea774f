"""A tracefs instance of our own: its events, filters and probes, and their removal.

Never the global buffer, which may be somebody else's.  What this kernel lacks is
said in `events` and `probes`, instead of failing.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import os
import re
from collections.abc import Sequence

from . import fileio
from .errors import AgentError, lab, target
from .probes import PROBES, Probe
from .workload import COMM

__all__ = ["DEFAULT_EVENTS", "Instance", "find_root", "sweep"]

# Documentation/trace/ftrace.rst: where it is mounted, and the automount for old programs.
_ROOTS = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")
# Of a raw page is waited for until this part of a buffer is full; our period does the rest.
_WAKE_PERCENT = 25
_REMOVE_SECONDS = 10.0
_GROUP = "lab"

DEFAULT_EVENTS = (
    "dma_fence:*",
    "gpu_scheduler:*",
    "raw_syscalls:sys_enter",
    "raw_syscalls:sys_exit",
    "signal:signal_deliver",
)
"""Patterns of "system:event"."""

_LEFT_OUT = {
    "sched:sched_switch": "left out: the probes on fence waits tell who slept, at a fraction of "
    "what every switch of every task would cost"
}

# Waits for fences are ioctls.  The number of that system call, by machine
# (arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h).
_IOCTL = {"x86_64": 16, "aarch64": 29, "riscv64": 29, "loongarch64": 29, "armv7l": 54, "i686": 54}


def find_root() -> str:
    """Where tracefs is mounted.  Raises AgentError (target) where it is not, or not for us."""
    for root in _ROOTS:
        if os.path.isdir(f"{root}/instances"):
            return root
    raise target(
        "tracefs is not mounted, or may not be used",
        _ROOTS[0],
        f"mount -t tracefs none {_ROOTS[0]}; a kernel needs CONFIG_FTRACE, and no lockdown",
    )


class Instance:
    """instances/lab-PID, recording from `open` until `remove`.

    `events` and `probes` say of each "system:event" whether it is "on", with
    which filter, or why it is absent.  `names` maps those that are on to the
    folder of their files.
    """

    def __init__(
        self, root: str, buffer_kb: int, patterns: list[str], probes: Sequence[Probe] = PROBES
    ) -> None:
        """Make and start it; `buffer_kb` for each CPU.  Raises AgentError (target).

        Nothing is left behind when it cannot be started.
        """
        self.root = root
        self.pid = os.getpid()
        self.path = f"{root}/instances/lab-{self.pid}"
        self.events: dict[str, str] = dict(_LEFT_OUT)
        self.probes: dict[str, str] = {}
        self.names: dict[str, str] = {}
        made = False
        try:
            os.mkdir(self.path)
            made = True
            self._configure(buffer_kb)
            for pattern in patterns:
                self._enable(pattern)
            for probe in probes:
                self._probe(probe)
            self._enabled = self._states()
            _write(f"{self.path}/tracing_on", "1")
        except OSError as error:
            if made:
                self.remove()
            raise target(
                f"no trace: {error.strerror}",
                str(error.filename),
                "lower trace_buffer_kb"
                if error.errno == errno.ENOMEM
                else "run the agent as root; see the kernel log",
                error.errno,
            ) from error

    def cpus(self) -> list[int]:
        """The CPUs that are online, of those that have a buffer."""
        online = _numbers(_read("/sys/devices/system/cpu/online"))
        return [cpu for cpu in online if os.path.isdir(f"{self.path}/per_cpu/cpu{cpu}")]

    def page_size(self) -> int:
        """Bytes of one read of trace_pipe_raw: the header's, and the data's."""
        sizes = re.search(r"\bdata;\s*offset:(\d+);\s*size:(\d+);", self._header("header_page"))
        if sizes is None:
            raise lab("tracefs' header_page has no data field", self.path, "tell us the kernel")
        return int(sizes[1]) + int(sizes[2])

    def formats(self) -> dict[str, str]:
        """Everything needed to read the pages: path below formats/ to text."""
        texts = {name: self._header(name) for name in ("header_page", "header_event")}
        for name, folder in self.names.items():
            texts[name.replace(":", "/")] = _read(f"{folder}/format")
        return texts

    def stats(self, cpu: int) -> dict[str, int]:
        """{"entries", "overrun", "commit_overrun", "dropped", "read"} of one CPU."""
        lines = _read(f"{self.path}/per_cpu/cpu{cpu}/stats").splitlines()
        found = {
            name.strip(): value.strip() for name, _, value in (s.partition(":") for s in lines)
        }
        wanted = ("entries", "overrun", "commit overrun", "dropped events", "read events")
        return {
            name.replace(" events", "").replace(" ", "_"): int(found.get(name, "0") or 0)
            for name in wanted
        }

    def missed(self) -> dict[str, int]:
        """By probe, how many of its hits were not recorded; only those with some.

        kprobe_profile names no group, so another agent's misses are counted with ours.
        """
        counts: dict[str, int] = {}
        with contextlib.suppress(OSError):
            for line in _read(f"{self.root}/kprobe_profile").splitlines():
                words = line.split()
                name = f"{_GROUP}:{words[0]}" if words else ""
                if len(words) == 3 and name in self.probes and words[2] != "0":
                    counts[name] = counts.get(name, 0) + int(words[2])
        return counts

    def gone(self) -> list[str]:
        """Systems whose events are no longer all recorded as they were: their module was
        unloaded, which also clears the buffers (kernel/trace/trace_events.c,
        trace_module_remove_events)."""
        now = self._states()
        return sorted(system for system, state in self._enabled.items() if now[system] != state)

    def comms(self) -> dict[int, str]:
        """Names of the tasks that left events lately, by pid."""
        names = {}
        for line in _read(f"{self.root}/saved_cmdlines").splitlines():
            pid, _, comm = line.partition(" ")
            if pid.isdigit():
                names[int(pid)] = comm
        return names

    def remove(self) -> None:
        """Take all of it away; the raw files must be closed.

        In a child, since on a machine that recovery left dead this may never
        return.  Raises AgentError (target): the next trace.start tries again.
        """
        _sweep_in_child(self.root, [self.pid])

    def _configure(self, buffer_kb: int) -> None:
        _write(f"{self.path}/tracing_on", "0")
        _write(f"{self.path}/trace_clock", "mono")
        _write(f"{self.path}/buffer_size_kb", str(buffer_kb))
        with contextlib.suppress(FileNotFoundError):  # an instance may have it from the global one
            _write(f"{self.path}/options/record-cmd", "1")
        # The newest is kept: what leads to a death is worth more than what was long before.
        _write(f"{self.path}/options/overwrite", "1")
        with contextlib.suppress(FileNotFoundError):  # before 5.0 every event wakes who polls
            _write(f"{self.path}/buffer_percent", str(_WAKE_PERCENT))

    def _enable(self, pattern: str) -> None:
        """Every event that fits."""
        system, _, wanted = pattern.partition(":")
        folder = f"{self.path}/events/{system}"
        try:
            known = sorted(os.listdir(folder))
        except OSError:
            known = []
        fitting = [
            name
            for name in known
            if fnmatch.fnmatchcase(name, wanted or "*") and os.path.isdir(f"{folder}/{name}")
        ]
        if not fitting:
            self.events[pattern] = "absent: this kernel has no such event now"
        for event in fitting:
            name = f"{system}:{event}"
            try:
                told = self._filter(name, f"{folder}/{event}")
                _write(f"{folder}/{event}/enable", "1")
            except OSError as error:
                self.events[name] = f"absent: {error.strerror}"
                continue
            except AgentError as error:
                self.events[name] = f"absent: {error.what}"
                continue
            self.events[name] = told
            self.names[name] = f"{folder}/{event}"

    def _filter(self, name: str, folder: str) -> str:
        if not name.startswith("raw_syscalls:"):
            return "on"
        machine = os.uname().machine
        number = _IOCTL.get(machine)
        if number is None:
            raise target(f"the number of ioctl is not known for {machine}")
        # Nobody but our clients uses a GPU that we hang, and every system call of every other
        # process would cost: a storm of sw_sync loses a fifth of its rate to them.
        wanted = f'id == {number} && COMM ~ "{COMM}*"'
        _write(f"{folder}/filter", wanted)
        return f"on, filter: {wanted}"

    def _probe(self, probe: Probe) -> None:
        group, name = _group(self.pid), f"{_GROUP}:{probe.name}"
        folder = f"{self.path}/events/{group}/{probe.name}"
        trouble: OSError | None = None
        for line in probe.definitions(group):
            try:
                _write(f"{self.root}/kprobe_events", line, append=True)
                _write(f"{folder}/enable", "1")
            except OSError as error:
                trouble = trouble or error
                continue
            self.probes[name] = "on"
            self.names[name] = folder
            return
        why = trouble.strerror if trouble else ""
        if trouble and trouble.errno in (errno.ENOENT, errno.EINVAL):
            why = f"{probe.function} cannot be probed here"
        self.probes[name] = f"absent: {why}"

    def _states(self) -> dict[str, str]:
        """1, 0 or X (some) by system, as events/SYSTEM/enable says; "" where it is not there."""
        states = {}
        # The kernel looks at all events of a system for each.
        for system in {os.path.dirname(folder) for folder in self.names.values()}:
            states[os.path.basename(system)] = ""
            with contextlib.suppress(OSError):
                states[os.path.basename(system)] = _read(f"{system}/enable").strip()
        return states

    def _header(self, name: str) -> str:
        return _read(f"{self.path}/events/{name}")


def sweep(root: str) -> None:
    """Remove what agents left that were killed and so could not.  Raises AgentError (target)."""
    pids = set()
    with contextlib.suppress(OSError):
        pids |= {int(m[1]) for n in os.listdir(f"{root}/instances") if (m := _NAMED.fullmatch(n))}
    with contextlib.suppress(OSError):
        pids |= {int(pid) for pid in _PROBED.findall(_read(f"{root}/kprobe_events"))}
    dead = sorted(pid for pid in pids if not os.path.exists(f"/proc/{pid}"))
    if dead:
        _sweep_in_child(root, dead)


_NAMED = re.compile(r"lab-(\d+)")
_PROBED = re.compile(rf":{_GROUP}_(\d+)/")


def _group(pid: int) -> str:
    return f"{_GROUP}_{pid}"


def _sweep_in_child(root: str, pids: list[int]) -> None:
    def action() -> bytes:
        for pid in pids:
            with contextlib.suppress(FileNotFoundError):
                # Removing it ends its events (kernel/trace/trace.c, __remove_instance).
                os.rmdir(f"{root}/instances/lab-{pid}")
        probes = ""
        with contextlib.suppress(FileNotFoundError):
            probes = _read(f"{root}/kprobe_events")
        for pid in pids:
            # `r512:group/name function ...`: the whole group, one by one.
            for name in re.findall(rf"^\w+:({_group(pid)}/\w+) ", probes, re.MULTILINE):
                _write(f"{root}/kprobe_events", f"-:{name}", append=True)
        return b""

    fileio.in_child(action, f"{root}/instances", "removal", _REMOVE_SECONDS)


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


def _write(path: str, text: str, append: bool = False) -> None:
    """One write, as tracefs wants it; raises OSError with the file's name."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | (os.O_APPEND if append else os.O_TRUNC))
    try:
        os.write(fd, f"{text}\n".encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error
    finally:
        os.close(fd)


def _numbers(text: str) -> list[int]:
    """`0-3,8` as numbers (Documentation/admin-guide/cputopology.rst)."""
    found: list[int] = []
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found
