"""What works on a target, line by line, each failure with its cure.

Looks only: hangs nothing, changes nothing that it does not put back.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness import doctor_ways
from harness.check import Check
from harness.deadline import Deadline
from harness.errors import HarnessError
from harness.evidence.rundir import RunDir
from harness.inventory import Target
from harness.lab.holds import hold
from harness.link.machine import machine_for
from harness.live.dut import Dut

__all__ = ["Check", "examine"]


# What each kernel option is for.  The first are needed for a verdict, the others for evidence.
_NEEDED = {
    "PROVE_LOCKING": "lockdep, the judge of the locking",
    "DEBUG_FS": "the drivers' reset knobs",
}
_WANTED = {
    "MMU_NOTIFIER": "lets lockdep's priming of dma_resv reach the notifiers",
    "DEBUG_ATOMIC_SLEEP": "sleeping in atomic context is reported",
    "DETECT_HUNG_TASK": "tasks stuck in recovery are reported",
    "SOFTLOCKUP_DETECTOR": "CPUs stuck in recovery are reported",
    "HARDLOCKUP_DETECTOR": "CPUs stuck with interrupts off are reported",
    "PRINTK_CALLER": "reports of two CPUs can be told apart",
    "FTRACE_SYSCALLS": "restarted waits can be seen",
    "KPROBE_EVENTS": "fence waits can be seen",
    "SW_SYNC": "software fences",
    "DEV_COREDUMP": "GPU core dumps",
    "MAGIC_SYSRQ": "stacks of a stuck machine, and a last resort",
    "PSTORE": "the last lines of a machine that died",
    "NETCONSOLE": "the last lines of a machine that died, by network",
}


def examine(target: Target) -> Iterator[Check]:
    """Check `target` from the outside in; stops where nothing further can be reached."""
    yield _opted_in(target)
    try:
        with hold(target, "lab doctor") as held, tempfile.TemporaryDirectory() as root:
            target = held.target
            yield from doctor_ways.configured(target)
            run = RunDir.create(Path(root), target.name)
            dut = Dut(target, run, machine_for(target, held.now), lambda line: None)
            try:
                dut.connect()
                yield Check(True, "SSH, python3, agent", f"boot {dut.boot_id[:8]}")
                yield from doctor_ways.standing(dut)
                yield from _connected(dut)
            finally:
                dut.close()
                run.close()
    except HarnessError as error:
        yield Check(False, error.where or target.name, error.what, error.cure)


def _opted_in(target: Target) -> Check:
    return Check(
        True if target.destructive else None,
        "may be hung",
        "" if target.destructive else "tests that hang or reset will be skipped",
        "destructive = true, if its keeper agrees",
    )


def _connected(dut: Dut) -> Iterator[Check]:
    health = dut.health()
    yield from _config(dut)
    locks = health["debug_locks"]
    yield Check(
        locks == 1,
        "lockdep",
        {1: "armed", 0: "off since its first report of this boot", None: "not in this kernel"}[
            locks
        ],
        "boot a kernel with CONFIG_PROVE_LOCKING=y" if locks is None else "reboot it",
    )
    yield Check(
        health["taint"] == 0 or None,
        "taint",
        _taint(health["taint"]),
        "W and D tell of an earlier crash: reboot; the others come with the kernel or a module",
    )
    yield from _tracing(dut)
    try:
        yield from _card(dut, dut.card)
    except HarnessError as error:
        yield Check(False, f"GPU driven by {dut.target.driver}", error.what, error.cure)
        return
    yield _annotation(dut)
    yield from _users(dut)
    try:
        names = ", ".join(engine.name for engine in dut.engines())
        yield Check(bool(names), "engines, as an unprivileged client", names, "see the kernel log")
    except HarnessError as error:
        yield Check(False, "engines, as an unprivileged client", error.what, error.cure)


def _taint(bits: int) -> str:
    """The letters of Documentation/admin-guide/tainted-kernels.rst."""
    letters = "PFSRMBUDAWCIOELKXTN"
    named = "".join(letter for bit, letter in enumerate(letters) if bits >> bit & 1)
    return f"{bits} ({named})" if bits else "0"


def _config(dut: Dut) -> Iterator[Check]:
    place = dut.facts.get("config")
    if not place:
        yield Check(
            None,
            "kernel options",
            "this kernel does not tell its config",
            "CONFIG_IKCONFIG_PROC=y, or install /boot/config-$(uname -r)",
        )
        return
    raw = dut.call("read", path=place["path"], limit=1 << 20)["data"]
    text = base64.b64decode(raw)
    with contextlib.suppress(gzip.BadGzipFile):
        text = gzip.decompress(text)
    have = {line.split(b"=")[0].decode() for line in text.splitlines() if line[:7] == b"CONFIG_"}
    missing = False
    for options, ok in ((_NEEDED, False), (_WANTED, None)):
        for name, why in options.items():
            if f"CONFIG_{name}" not in have:
                missing = True
                yield Check(ok, f"CONFIG_{name}", f"not set: {why}", f"CONFIG_{name}=y")
    if not missing:
        yield Check(True, "kernel options", f"all {len(_NEEDED) + len(_WANTED)} are set")


def _tracing(dut: Dut) -> Iterator[Check]:
    for what, path in (("debugfs", "/sys/kernel/debug"), ("tracefs", "/sys/kernel/tracing")):
        try:
            names = dut.call("listdir", path=path)["names"]
        except HarnessError:
            names = []
        yield Check(
            bool(names) or (False if what == "debugfs" else None),
            what,
            "" if names else f"not mounted at {path}",
            f"mount -t {what} none {path}",
        )
    recorder = dut.at.recorder
    yield Check(
        None if recorder.absent else True,
        "trace of fences",
        recorder.absent or f"{sum(_on(dut).values())} events and probes are on",
        f"{recorder.cure}; without it no test accounts for its fences",
    )
    if not recorder.absent:
        yield from _traced(dut)


# What is recorded, what it is for, and the kernel's option where it is missing.
_TRACED = (
    ("dma_fence:", "fences are seen", "CONFIG_DMA_SHARED_BUFFER=y and CONFIG_FTRACE=y"),
    ("gpu_scheduler:", "jobs are told from their fences", "load the driver"),
    ("raw_syscalls:", "restarted waits are proven", "CONFIG_FTRACE_SYSCALLS=y"),
    ("lab:wait_", "waits tell if they are interruptible, and their end", "CONFIG_KPROBE_EVENTS=y"),
    ("lab:tdr_", "recoveries are timed", "CONFIG_KPROBE_EVENTS=y"),
)
# Of a driver whose jobs go through drm_sched alone.
_SCHEDULERS = ("gpu_scheduler:", "lab:tdr_")


def _traced(dut: Dut) -> Iterator[Check]:
    for prefix, why, cure in _TRACED:
        if prefix in _SCHEDULERS and not dut.gpu.scheduler:
            continue
        states = {name: on for name, on in _on(dut).items() if name.startswith(prefix)}
        missing = [name for name, on in states.items() if not on]
        told = {**dut.at.recorder.events, **dut.at.recorder.probes}
        yield Check(
            True if states and not missing else None,
            f"trace of {prefix.rstrip(':_')}",
            "; ".join(f"{name} {told[name]}" for name in missing) or why,
            f"{cure}: then {why}",
        )


def _on(dut: Dut) -> dict[str, bool]:
    """Of each event and probe that was asked for, whether it is recorded."""
    told = {**dut.at.recorder.events, **dut.at.recorder.probes}
    return {name: state.startswith("on") for name, state in told.items()}


def _card(dut: Dut, card: dict[str, Any]) -> Iterator[Check]:
    yield Check(
        card["render"] is not None,
        f"GPU driven by {dut.target.driver}",
        f"{card['name']}, {card['pci']}, render node {card['render']}",
        "the driver offers no render node; see the kernel log",
    )
    lit = [c for c in card["connectors"] if c["status"] == "connected"]
    yield Check(
        True if lit and all(c["edid_sha256"] for c in lit) else None,
        "display",
        ", ".join(f"{c['name']}{'' if c['edid_sha256'] else ' (no EDID)'}" for c in lit)
        or ("nothing is connected" if card["connectors"] else "this card has no connectors"),
        "plug in a monitor or an EDID dongle, or set drm.edid_firmware=; "
        "display resets go unseen without it",
    )
    pm = card["runtime_pm"]
    yield Check(
        True if pm["control"] in (None, "on") else None,
        "runtime PM",
        f"{pm['control'] or 'none'}, {pm['status'] or 'unknown'}",
        f"echo on > /sys/bus/pci/devices/{card['pci']}/power/control: a GPU that sleeps "
        "between tests is reset by its wake-up",
    )
    console = dut.call("run", argv=["cat", "/sys/class/vtconsole/vtcon1/bind"])["stdout"].strip()
    yield Check(
        None if console == "1" else True,
        "fbcon",
        "bound: it draws through the GPU under test" if console == "1" else "not bound",
        "echo 0 > /sys/class/vtconsole/vtcon1/bind, unless console_lock is what you test",
    )


def _annotation(dut: Dut) -> Check:
    if not dut.gpu.scheduler:
        it = dut.gpu.annotation
        found = f"{it.path} is, without asking for it; not {it.without}"
        return Check(True, "annotation of recovery", found)
    path = "/sys/module/gpu_sched/parameters/tdr_annotation"
    done = dut.call("run", argv=["cat", path])
    value = done["stdout"].strip()
    return Check(
        True if value == "Y" else None,
        "TDR annotation",
        "on" if value == "Y" else "off" if value else "not in this kernel",
        "apply tools/kernel/patches/0001-*.patch (up to 6.12 also 0003): a stock kernel cannot "
        "report TDR inversions through the scheduler",
    )


def _users(dut: Dut) -> Iterator[Check]:
    users = dut.agent.call("clients", Deadline(dut.target.limits.command_s))["clients"]
    for user in users:
        yield Check(
            False,
            "nobody else uses the GPU",
            f"{user['comm']}, pid {user['pid']}, has {user['node']} open"
            + (" as master" if user["master"] else ""),
            f"stop {user['comm']} (a display manager: systemctl stop display-manager)",
        )
    if not users:
        yield Check(True, "nobody else uses the GPU")
