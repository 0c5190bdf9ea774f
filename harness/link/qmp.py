"""QEMU's monitor (QMP) for threads: the qemu.qmp package's asyncio, wrapped.

One event loop in a thread of its own; commands may come from any thread, each
under a Deadline.  Events are handed to a listener as they come.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from qemu.qmp import EventListener, ExecuteError, QMPClient, QMPError

from harness.deadline import Deadline
from harness.errors import LabError

__all__ = ["Qmp"]

T = TypeVar("T")


class Qmp:
    """A connection to one QEMU.  Thread-safe; must be closed."""

    def __init__(
        self,
        sock: socket.socket,
        deadline: Deadline,
        *,
        name: str,
        on_event: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        """Negotiate over the connected `sock`, which is ours from now on.

        `on_event` is called in the monitor's own thread, so it must return soon.
        Raises LabError when QEMU does not greet in time.
        """
        self._name = name
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"qmp-{name}")
        self._thread.daemon = True
        self._thread.start()
        # A QEMU that goes away is our caller's news to tell; the package would log it as well.
        logger = logging.getLogger(f"{__name__}.{name}")
        logger.addHandler(logging.NullHandler())
        logger.propagate = False
        self._client = QMPClient(name)
        self._client.logger = logger
        self._pump: asyncio.Task[None] | None = None
        self._closed = False
        try:
            self._run(self._connect(sock, on_event), deadline, "negotiate")
        except BaseException:
            sock.close()
            self.close()
            raise

    def execute(
        self, command: str, deadline: Deadline, arguments: dict[str, Any] | None = None
    ) -> Any:
        """Run a QMP command and return what it returns.

        Raises LabError when QEMU refuses it, is gone, or does not answer in time.
        """
        if self._closed:
            raise LabError(f"QMP {command}: not connected", where=self._name, cure="start it first")
        return self._run(self._client.execute(command, arguments), deadline, command)

    def human(self, line: str, deadline: Deadline) -> str:
        """Run a line of QEMU's human monitor; for what QMP has no command for."""
        text = self.execute("human-monitor-command", deadline, {"command-line": line})
        return str(text)

    def close(self) -> None:
        """Disconnect and end the thread.  Idempotent; QEMU itself goes on."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(LabError):
            self._run(self._disconnect(), Deadline(5), "disconnect")
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=5)
        if not self._thread.is_alive():
            self._loop.close()

    async def _connect(
        self, sock: socket.socket, on_event: Callable[[dict[str, Any]], None] | None
    ) -> None:
        listener = EventListener()
        self._client.register_listener(listener)
        self._pump = self._loop.create_task(_pump(listener, on_event or (lambda _: None)))
        await self._client.connect(sock)

    async def _disconnect(self) -> None:
        if self._pump is not None:
            self._pump.cancel()
        with contextlib.suppress(QMPError, EOFError, OSError):
            await self._client.disconnect()

    def _run(self, work: Coroutine[Any, Any, T], deadline: Deadline, what: str) -> T:
        # The limit is kept in the loop, so that what was cut off has ended when we go on.
        limited = asyncio.wait_for(work, deadline.left())
        try:
            return asyncio.run_coroutine_threadsafe(limited, self._loop).result()
        except TimeoutError as error:
            raise LabError(
                f"QMP {what}: no answer within {deadline.seconds:g} s",
                where=self._name,
                cure="QEMU is stuck or this host is overloaded; stop the machine and start it",
            ) from error
        except ExecuteError as error:
            raise LabError(
                f"QMP {what}: {error}", where=self._name, cure="see QEMU's QMP reference"
            ) from error
        except (QMPError, EOFError, OSError) as error:
            raise LabError(
                f"QMP {what}: QEMU is gone: {error}",
                where=self._name,
                cure="see its stderr and the last console lines",
            ) from error


async def _pump(listener: EventListener, on_event: Callable[[dict[str, Any]], None]) -> None:
    async for message in listener:
        on_event(dict(message))
