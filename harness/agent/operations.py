"""What a controller may ask: one function an operation, found by name in OPERATIONS.

Each takes the session and its arguments and returns the reply's result, JSON
with bytes in base64; the docstrings are the wire's reference.
"""

from __future__ import annotations

import base64
from typing import Any, Callable

from . import cards, clients, facts, fileio, kmsg, probes, snapshot
from .arguments import Arguments
from .errors import AgentError, usage
from .session import Session

__all__ = ["INLINE", "OPERATIONS", "Operation"]

Operation = Callable[[Session, Arguments], dict[str, Any]]

_FILE_SECONDS = 10.0
_RUN_SECONDS = 60.0
_CALL_SECONDS = 60.0
_READ_LIMIT = 1 << 20
_NAMES_LIMIT = 1 << 20


def hello(session: Session, arguments: Arguments) -> dict[str, Any]:
    """{} -> facts.facts()."""
    arguments.done()
    return facts.facts()


def clocks(session: Session, arguments: Arguments) -> dict[str, Any]:
    """{} -> {"monotonic", "boottime", "realtime"} in ns."""
    arguments.done()
    return dict(facts.clocks())


def health(session: Session, arguments: Arguments) -> dict[str, Any]:
    """{} -> facts.health()."""
    arguments.done()
    return facts.health()


def echo(session: Session, arguments: Arguments) -> dict[str, Any]:
    """{data} -> {"data"}, for measuring the link."""
    data = arguments.text("data")
    arguments.done()
    return {"data": data}


def mark(session: Session, arguments: Arguments) -> dict[str, Any]:
    """{text} -> {"mono": CLOCK_MONOTONIC ns}, and a line in the kernel log."""
    text = arguments.text("text")
    arguments.done()
    return {"mono": kmsg.mark(text)}


def window_open(session: Session, arguments: Arguments) -> dict[str, Any]:
    """{text, trace = false} -> {"mono", "trace", "health"}: facts.health(), then a mark, with
    `trace` what trace.sync tells or {"behind": why}.  In this order: what a report after the mark
    switches off was on before it."""
    trace = arguments.flag("trace")
    health = facts.health()
    told = mark(session, arguments)
    return {**told, "trace": _synced(session, trace), "health": health}


def window_close(session: Session, arguments: Arguments) -> dict[str, Any]:
    """{text, trace = false, seconds = 10} -> {"mono", "trace", "health", "failed"}: restore,
    facts.health(), then a mark, so that the report behind whatever was switched off is before
    it; `trace` as window.open's."""
    trace = arguments.flag("trace")
    failed = session.knobs.restore(arguments.seconds("seconds", _FILE_SECONDS))["failed"]
    health = facts.health()
    told = mark(session, arguments)
    return {**told, "trace": _synced(session, trace), "health": health, "failed": failed}


def collect(session: Session, arguments: Arguments) -> dict[str, Any]:
    """{what: kmsg|uevents|trace, stream = 0, from = start|end, subsystems = [],
    source: kernel|udev = kernel, cpu = 0} -> {"stream"}.

    `from` is kmsg's, `subsystems` and `source` uevents', `cpu` trace's: one stream a CPU, of raw
    ring-buffer pages, which ends with trace.stop.
    """
    what = arguments.text("what")
    stream = arguments.integer("stream", 0)
    start = arguments.text("from", "end")
    subsystems = arguments.texts("subsystems", [])
    source = arguments.text("source", "kernel")
    cpu = arguments.integer("cpu", 0)
    arguments.done()
    if source not in ("kernel", "udev"):
        raise usage(f"no uevents come from {source}", cure="pass source: kernel or udev")
    return session.collect(what, stream, start, subsystems, cpu, source)


def collect_stop(session: Session, arguments: Arguments) -> dict[str, Any]:
    """{stream} -> {"stream", "ended"}; the stream's empty frame may come after the reply."""
    stream = arguments.integer("stream")
    arguments.done()
    return session.stop_collector(stream)


def trace_start(session: Session, arguments: Arguments) -> dict[str, Any]:
    """{buffer_kb, events = [], probes = []} -> {"cpus", "page_size", "meta", "formats":
    {path: text}, "stats"}.

    `buffer_kb` is for each CPU; `events` are patterns of "system:event" beside
    tracefs.DEFAULT_EVENTS, `probes` as probes.parse reads them beside probes.PROBES.
    Nothing is read before `collect` has given a CPU its stream.
    """
    buffer_kb = arguments.integer("buffer_kb")
    events = arguments.texts("events", [])
    wanted = arguments.texts("probes", [])
    arguments.done()
    if not 16 <= buffer_kb <= 1 << 20:
        raise usage(f"buffer_kb is {buffer_kb}", cure="pass KiB for each CPU, from 16 to 1048576")
    return session.trace.start(buffer_kb, events, [probes.parse(text) for text in wanted])


def trace_sync(session: Session, arguments: Arguments) -> dict[str, Any]:
    """{} -> {"mono", "sent": {cpu: bytes}, "stats": [{"mono", "cpu", "entries", "overrun",
    "commit_overrun", "dropped", "read"}], "comms": {pid: name}, "missed": {probe: hits},
    "gone": [system]}.

    What was recorded before `mono` (CLOCK_MONOTONIC ns) is within the first `sent` bytes
    of each CPU's stream; `comms` are the names not told before; events of a `gone` system
    are no longer recorded.
    """
    arguments.done()
    return session.trace.sync()


def trace_stop(session: Session, arguments: Arguments) -> dict[str, Any]:
    """{} -> {"stats", "sent"} as of the end; the streams' empty frames may come after it."""
    arguments.done()
    return session.trace.stop()


def take_snapshot(session: Session, arguments: Arguments) -> dict[str, Any]:
    """{files = [], seconds = 30, each = 3, limit = 64 KiB} -> {"mono", "elapsed_ns",
    "tasks": [{"pid", "tid", "state", "comm", "wchan", "stack", "error"}], "more_tasks",
    "locks": text, "no_locks": why, "files": [{"path", "text", "truncated", "error", "ns"}],
    "fdinfo": [as files], "bufinfo": as one of files}.

    `tasks` are all that sleep uninterruptibly, kernel workers that sleep at work, and all
    threads of the workloads, whose DRM files `fdinfo` shows; `locks` is what lockdep says of
    held locks, printed to the kernel log and read back.  An entry that fails says why in its
    `error`; bufinfo is read last, since it may block and signals fences.
    """
    files = arguments.texts("files", [])
    seconds = arguments.seconds("seconds", 30.0)
    each = arguments.seconds("each", 3.0)
    limit = arguments.integer("limit", 64 << 10)
    arguments.done()
    if not 0 < limit <= _READ_LIMIT:
        raise usage(f"limit is {limit}", cure=f"pass bytes, at most {_READ_LIMIT}")
    if wrong := [path for path in files if not path.startswith("/")]:
        raise usage(f"{wrong[0]!r} is no absolute path", cure="start it with /")
    return snapshot.take(files, session.workloads.pids(), seconds, each, limit)


def read(session: Session, arguments: Arguments) -> dict[str, Any]:
    """{path, limit = 1 MiB, offset = 0, seconds = 10} -> {"data": base64, "truncated"}."""
    path = _path(arguments)
    limit = arguments.integer("limit", _READ_LIMIT)
    offset = arguments.integer("offset", 0)
    seconds = arguments.seconds("seconds", _FILE_SECONDS)
    arguments.done()
    if not 0 < limit <= fileio.MAX_READ or offset < 0:
        raise usage(
            f"cannot read {limit} bytes from {offset}",
            path,
            f"at most {fileio.MAX_READ} at once; page with offset",
        )
    data, more = fileio.read(path, limit, seconds, offset)
    return {"data": base64.b64encode(data).decode(), "truncated": more}


def write(session: Session, arguments: Arguments) -> dict[str, Any]:
    """{path, data: base64, append = false, seconds = 10} -> {"written": bytes}.

    Emptied first, as by a shell's `>`, or with `append` as by `>>`; never created.
    """
    path = _path(arguments)
    text = arguments.text("data")
    append = arguments.flag("append")
    seconds = arguments.seconds("seconds", _FILE_SECONDS)
    arguments.done()
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise usage(f"data is not base64: {error}", path, "encode the bytes") from error
    return {"written": fileio.write(path, data, seconds, append)}


def listdir(session: Session, arguments: Arguments) -> dict[str, Any]:
    """{path, seconds = 10} -> {"names": [sorted], "truncated"}."""
    path = _path(arguments)
    seconds = arguments.seconds("seconds", _FILE_SECONDS)
    arguments.done()
    names = fileio.list_directory(path, seconds)
    return {"names": names[:_NAMES_LIMIT], "truncated": len(names) > _NAMES_LIMIT}


def knob(session: Session, arguments: Arguments) -> dict[str, Any]:
    """{path, value, seconds = 10, standing = false} -> {"original"}; undone by restore or the
    agent's end, one that is `standing` by its end alone."""
    path = _path(arguments)
    value = arguments.text("value")
    seconds = arguments.seconds("seconds", _FILE_SECONDS)
    standing = arguments.flag("standing")
    arguments.done()
    knobs = session.standing if standing else session.knobs
    return {"original": knobs.turn(path, value, seconds)}


def knobs(session: Session, arguments: Arguments) -> dict[str, Any]:
    """{} -> {"turned": {path: original}}."""
    arguments.done()
    return {"turned": session.knobs.turned()}


def restore(session: Session, arguments: Arguments) -> dict[str, Any]:
    """{seconds = 10} -> {"restored": [path], "failed": [{"path", "what"}]}, last turned first."""
    seconds = arguments.seconds("seconds", _FILE_SECONDS)
    arguments.done()
    return session.knobs.restore(seconds)


def netconsole_start(session: Session, arguments: Arguments) -> dict[str, Any]:
    """{host, port} -> {"interface", "local", "mac"}; taken away at the agent's end."""
    host = arguments.text("host")
    port = arguments.integer("port")
    arguments.done()
    return session.netconsole.start(host, port, session.commands)


def watchdog_start(session: Session, arguments: Arguments) -> dict[str, Any]:
    """{device, seconds, module = none, patience = 1} -> {"identity", "seconds"}; disarmed by bye
    alone, fed for `patience` seconds after the controller fell silent."""
    device = arguments.text("device")
    seconds = arguments.integer("seconds")
    module = arguments.text("module", None)
    patience = arguments.seconds("patience", 1.0)
    arguments.done()
    return session.watchdog.start(device, seconds, module, session.commands, patience)


def run(session: Session, arguments: Arguments) -> dict[str, Any]:
    """{argv, stdin = "", timeout = 60} -> {"status", "signal", "timed_out", "truncated",
    "stdout", "stderr"}."""
    argv = arguments.texts("argv")
    stdin = arguments.text("stdin", "")
    seconds = arguments.seconds("timeout", _RUN_SECONDS)
    arguments.done()
    return session.commands.run(argv, stdin, seconds)


def detach(session: Session, arguments: Arguments) -> dict[str, Any]:
    """{argv} -> {"pid"}; a command without output that goes on after the agent's end."""
    argv = arguments.texts("argv")
    arguments.done()
    return {"pid": session.commands.detach(argv)}


def list_clients(session: Session, arguments: Arguments) -> dict[str, Any]:
    """{node = any} -> {"clients": [{"pid", "comm", "node", "master"}]}."""
    node = arguments.text("node", None)
    arguments.done()
    return {"clients": clients.clients(node)}


def list_cards(session: Session, arguments: Arguments) -> dict[str, Any]:
    """{} -> {"cards": [...]} as in cards.cards."""
    arguments.done()
    return {"cards": cards.cards()}


def workload_start(session: Session, arguments: Arguments) -> dict[str, Any]:
    """{driver, node = "", primary = "", user = nobody, pass = [], bailout = 120, stream = 0}
    -> {"workload", "pid", "stream", "ready"}; the stream carries its stderr.

    `primary` is a display client's primary node; `pass` lists files that the
    agent opens for it; `bailout` is after how many seconds it releases its own
    hangs, whatever happens.
    """
    driver = arguments.text("driver")
    node = arguments.text("node", "")
    primary = arguments.text("primary", "")
    user = arguments.name_or_number("user", None)
    passed = arguments.texts("pass", [])
    bailout = arguments.seconds("bailout", 120.0)
    stream = arguments.integer("stream", 0)
    arguments.done()
    stream = session.stream(stream)
    started = session.workloads.start(
        driver, node, primary, user, passed, bailout, lambda data: session.outbox.put(stream, data)
    )
    return {"stream": stream, **started}


def workload_call(session: Session, arguments: Arguments) -> dict[str, Any]:
    """{workload, call, args = {}, timeout = 60} -> the result of its operation `call`."""
    number = arguments.integer("workload")
    call = arguments.text("call")
    values = arguments.mapping("args")
    seconds = arguments.seconds("timeout", _CALL_SECONDS)
    arguments.done()
    return session.workloads.call(number, call, values, seconds)


def workload_stop(session: Session, arguments: Arguments) -> dict[str, Any]:
    """{workload} -> {"status", "signal", "how": closed|sigterm|sigkill|stuck, "stderr"}."""
    number = arguments.integer("workload")
    arguments.done()
    return session.workloads.stop(number)


def _synced(session: Session, wanted: bool) -> dict[str, Any]:
    try:
        return session.trace.sync() if wanted else {}
    except (AgentError, OSError) as error:
        return {"behind": str(error)}


def _path(arguments: Arguments) -> str:
    path: str = arguments.text("path")
    if not path.startswith("/") or "\0" in path:
        raise usage(f"{arguments.op}: {path!r} is no absolute path", cure="start it with /")
    return path


OPERATIONS: dict[str, Operation] = {
    "hello": hello,
    "clocks": clocks,
    "health": health,
    "echo": echo,
    "mark": mark,
    "window.open": window_open,
    "window.close": window_close,
    "collect": collect,
    "collect.stop": collect_stop,
    "trace.start": trace_start,
    "trace.sync": trace_sync,
    "trace.stop": trace_stop,
    "snapshot": take_snapshot,
    "read": read,
    "write": write,
    "listdir": listdir,
    "knob": knob,
    "knobs": knobs,
    "restore": restore,
    "netconsole.start": netconsole_start,
    "watchdog.start": watchdog_start,
    "run": run,
    "detach": detach,
    "clients": list_clients,
    "cards": list_cards,
    "workload.start": workload_start,
    "workload.call": workload_call,
    "workload.stop": workload_stop,
}

INLINE = frozenset({"echo", "clocks"})
"""Operations that touch no device or file, done without a thread of their own."""
