"""Power by an outlet of a PDU that a pdudaemon switches, asked over HTTP.

It may work a request off only after it said yes, and knows no state: so each is given
its time to settle, and `query` cannot tell.
"""

from __future__ import annotations

import http.client
import urllib.error
import urllib.parse
import urllib.request
from functools import partial

from harness import ways
from harness.deadline import Deadline
from harness.errors import LabError
from harness.link.power_command import settled
from harness.link.secret import hidden

__all__ = ["PdudaemonPower"]


class PdudaemonPower:
    """The outlet of `spec`."""

    def __init__(self, target: str, spec: ways.PdudaemonPower) -> None:
        self.target = target
        self.spec = spec

    def on(self, deadline: Deadline) -> None:
        self._ask("on", deadline)

    def off(self, deadline: Deadline) -> None:
        self._ask("off", deadline)
        if deadline.left() < self.spec.settle_s:
            raise self._failed("off", "accepted, but there is no time left to let it happen")
        deadline.pause(self.spec.settle_s)

    def cycle(self, deadline: Deadline) -> None:
        ask = self._ask
        settled(self.target, partial(ask, "off"), partial(ask, "on"), self.spec.settle_s, deadline)

    def query(self, deadline: Deadline) -> bool | None:
        return None

    def nmi(self, deadline: Deadline) -> bool:
        return False

    def _ask(self, way: str, deadline: Deadline) -> None:
        query = urllib.parse.urlencode({"hostname": self.spec.pdu, "port": self.spec.outlet})
        url = f"{self.spec.url.rstrip('/')}/power/control/{way}?{query}"
        # A lab's own daemon is never behind the proxy of the environment.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(url, timeout=max(0.1, deadline.left())) as answer:
                answer.read(1 << 16)
        except urllib.error.HTTPError as error:
            with error:
                said = error.read(1 << 12).decode(errors="replace").strip()
            raise self._failed(way, f"HTTP {error.code}: {hidden(said)[:300]}") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._failed(way, hidden(str(getattr(error, "reason", error)))) from error

    def _failed(self, way: str, what: str) -> LabError:
        return LabError(
            f"pdudaemon at {hidden(self.spec.url)}, {self.spec.pdu} outlet {self.spec.outlet},"
            f" {way}: {what}",
            where=self.target,
            cure="is pdudaemon up, and the PDU and its outlet in its configuration? see power.*"
            " in targets.toml",
        )
