"""Commands a second through the agent, beside ssh with ControlMaster and labgrid's SSHDriver.

All against one sshd on loopback in one run.  Two things are told apart: a round
trip (nothing is started there) and the start of a process.
"""

from __future__ import annotations

import contextlib
import getpass
import importlib
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from harness.deadline import Deadline
from harness.errors import LabError, UsageError
from harness.link import zipapp
from harness.link.agent import Agent
from harness.link.ssh import Ssh
from harness.tests.loopback.sshd import Sshd, why_not
from tools.bench.result import Result

__all__ = ["run"]

_ROUNDS = 5
# The wish: what a test does between two hangs must cost nothing beside them.
_WANTED = 100.0
_UNIT = "commands/s"
_LINE = b"x" * 15 + b"\n"
_Do = Callable[[], object]


def run() -> list[Result]:
    """Medians of several rounds, the rivals taking turns.  Raises UsageError without an sshd."""
    if reason := why_not():
        raise UsageError(reason, where="bench agent_rate", cure="install it and run this again")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tdrlab-bench-")))
        sshd = Sshd(folder / "sshd").start()
        stack.callback(sshd.stop)
        agent = stack.enter_context(_agent(sshd, folder))
        control = stack.enter_context(_control_master(sshd, folder))
        contenders: dict[str, tuple[_Do, int]] = {
            "echo": (lambda: agent.call("echo", Deadline(20), data="x" * 16), 1000),
            "run": (lambda: agent.call("run", Deadline(20), argv=["true"]), 100),
            "ssh": (lambda: subprocess.run([*control, "true"], check=True), 20),
            "cat": (stack.enter_context(_cat(control)), 1000),
        }
        if labgrid := stack.enter_context(_labgrid(sshd)):
            contenders["labgrid"] = (labgrid, 20)
        rates = _rates(contenders)
    commands = {"ssh -S CONTROL HOST true": rates["ssh"]}
    if "labgrid" in rates:
        commands["labgrid SSHDriver.run('true')"] = rates["labgrid"]
    return [
        # As one would have asked the machine something before, and does now.
        Result.of("agent_rate.echo", rates["echo"], _UNIT, commands, _WANTED),
        # Like with like: a process each, and a round trip each.
        Result.of("agent_rate.run_true", rates["run"], _UNIT, commands),
        Result.of(
            "agent_rate.round_trip",
            rates["echo"],
            _UNIT,
            {"a line through `ssh -S CONTROL HOST cat`": rates["cat"]},
        ),
    ]


def _rates(contenders: dict[str, tuple[_Do, int]]) -> dict[str, float]:
    """Times a second each can be done: the median of the rounds."""
    rounds: dict[str, list[float]] = {name: [] for name in contenders}
    for do, _ in contenders.values():
        do()  # the first one pays for imports and caches
    for _ in range(_ROUNDS):
        for name, (do, count) in contenders.items():
            began = time.perf_counter()
            for _ in range(count):
                do()
            rounds[name].append(count / (time.perf_counter() - began))
    return {name: statistics.median(found) for name, found in rounds.items()}


@contextlib.contextmanager
def _agent(sshd: Sshd, folder: Path) -> Iterator[Agent]:
    app, _ = zipapp.build()
    with Ssh.connect(sshd.endpoint(), Deadline(30)) as ssh:
        path = str(folder / "agent.pyz")
        ssh.put(app, path, 0o755, Deadline(30))
        channel = ssh.channel([sys.executable, path, "serve"])
        with Agent(channel, Deadline(30)) as agent:
            yield agent


@contextlib.contextmanager
def _control_master(sshd: Sshd, folder: Path) -> Iterator[list[str]]:
    """`ssh` as a user would speed it up: argv up to the command."""
    known = folder / "known_hosts"
    known.write_text(f"[127.0.0.1]:{sshd.port} {sshd.public()}\n")
    options = ["-F", "none", "-i", str(sshd.user_key), "-o", f"UserKnownHostsFile={known}"]
    options += ["-o", "LogLevel=ERROR", "-x", "-S", str(folder / "control")]
    host = ["-p", str(sshd.port), "-l", getpass.getuser(), "127.0.0.1"]
    subprocess.run(["ssh", *options, "-f", "-N", "-M", *host], check=True)
    try:
        yield ["ssh", *options, *host]
    finally:
        subprocess.run(["ssh", *options, "-O", "exit", *host], stderr=subprocess.DEVNULL)


@contextlib.contextmanager
def _cat(control: list[str]) -> Iterator[_Do]:
    """A line there and back over one channel kept open by ssh itself."""
    with subprocess.Popen(
        [*control, "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as process:

        def line() -> None:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(_LINE)
            back = b""
            while len(back) < len(_LINE):
                piece = process.stdout.read(len(_LINE) - len(back))
                if not piece:
                    raise LabError("ssh ended too early", where="bench agent_rate")
                back += piece

        try:
            yield line
        finally:
            process.terminate()


@contextlib.contextmanager
def _labgrid(sshd: Sshd) -> Iterator[_Do | None]:
    """labgrid's driver, as its documentation sets it up; None where it is not installed."""
    try:
        # By name: it is a development tool, without types, and may be absent.
        labgrid: Any = importlib.import_module("labgrid")
        driver_module: Any = importlib.import_module("labgrid.driver")
        resource: Any = importlib.import_module("labgrid.resource")
    except ImportError:
        print("labgrid is not installed: left out", file=sys.stderr)
        yield None
        return
    logging.getLogger("labgrid").setLevel(logging.WARNING)
    target = labgrid.Target("loop")
    resource.NetworkService(target, None, "127.0.0.1", getpass.getuser(), port=sshd.port)
    driver = driver_module.SSHDriver(target, None, keyfile=str(sshd.user_key))
    target.activate(driver)
    try:
        yield lambda: driver.run_check("true")
    finally:
        target.deactivate(driver)
