"""One client of a labgrid coordinator: what it says, kept up to date, and requests to it.

A thread follows the coordinator's stream and connects anew whenever it breaks; requests go over
the very connection of that stream, by which the coordinator knows who asks.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from harness.deadline import Deadline
from harness.errors import LabError, UsageError
from harness.labgrid.places import Export, Match, Place, Standing

__all__ = ["DEFAULT_PORT", "Gone", "Refused", "Session"]

DEFAULT_PORT = 20408
# Seconds between attempts to connect, and for one request: an exporter may take ten of them for
# each resource (labgrid, remote/coordinator.py, ExporterCommand.wait()).
_AGAIN_S = 0.25
_REQUEST_S = 60.0
_OPTIONS = (
    # A connection of our own: by it the coordinator knows a session, and it wants one on each.
    ("grpc.use_local_subchannel_pool", 1),
    # A lab's own daemon is never behind the proxy of the environment.
    ("grpc.enable_http_proxy", 0),
    # As labgrid's own client asks whether the other end lives.
    ("grpc.keepalive_time_ms", 7500),
    ("grpc.keepalive_timeout_ms", 10000),
    ("grpc.http2.ping_timeout_ms", 10000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 250),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
# What the coordinator says no with; all else means that it did not understand who asks, or died.
_NO = ("INVALID_ARGUMENT", "FAILED_PRECONDITION", "PERMISSION_DENIED", "ALREADY_EXISTS")
_STATES = ("waiting", "allocated", "acquired", "expired", "invalid")


class Gone(LabError):
    """The coordinator does not answer, or was started anew meanwhile; it may come back."""


class Refused(LabError):
    """The coordinator understood, and said no."""


class Session:
    """A connection that comes back.  `generation` counts how often it was made: whoever saw it
    change must expect that the coordinator forgot who holds what."""

    def __init__(self, address: str, owner: str) -> None:
        """Raises UsageError where labgrid is not installed; connects in the background."""
        self._grpc, self._pb, self._rpc = _modules()
        self.address = address if _has_port(address) else f"{address}:{DEFAULT_PORT}"
        self.owner = owner
        self.generation = 0
        self.version = 0
        """Counts all that it ever told."""
        self._news = threading.Condition()
        self._places: dict[str, Place] = {}
        self._exports: dict[tuple[str, str, str], Export] = {}
        self._stub: Any = None
        self._call: Any = None
        self._trouble = ""
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True, name="labgrid")
        self._thread.start()

    # -- what it says -------------------------------------------------------------

    def reach(self, deadline: Deadline) -> None:
        """Wait until it is there and has told all.  Raises Gone when it is not in time."""
        with self._news:
            while self._stub is None:
                if self._closed.is_set() or deadline.expired():
                    raise self._gone(self._trouble or "no answer")
                self._news.wait(max(0.01, deadline.left()))

    def places(self) -> dict[str, Place]:
        """All places, as last told."""
        with self._news:
            return dict(self._places)

    def exports(self) -> list[Export]:
        """All that is exported, as last told."""
        with self._news:
            return list(self._exports.values())

    def wait(self, seconds: float, since: int | None = None) -> None:
        """Until something changes, the connection too; at most so long.

        `since`: a `version` that was seen, after which any change counts.
        """
        with self._news:
            known = self.version if since is None else since
            if not self._closed.is_set():
                self._news.wait_for(lambda: self.version != known, seconds)

    @property
    def closed(self) -> bool:
        """Whether we have left; from then on `wait` does not."""
        return self._closed.is_set()

    def nudge(self) -> None:
        """Wake whoever waits."""
        with self._news:
            self._happened()

    # -- requests; each raises Gone or Refused ------------------------------------

    def reserve(self, filters: Mapping[str, str], prio: float = 0.0) -> Standing:
        """Queue for a place with these tags; to be polled, or it is dropped after 60 s."""
        # Groups other than "main" are not implemented there, nor several places in one.
        main = self._pb.Reservation.Filter(filter=dict(filters))
        request = self._pb.CreateReservationRequest(filters={"main": main}, prio=prio)
        return _standing(self._ask("CreateReservation", request).reservation)

    def poll(self, token: str) -> Standing:
        """How the reservation stands; keeps it alive."""
        request = self._pb.PollReservationRequest(token=token)
        return _standing(self._ask("PollReservation", request).reservation)

    def cancel(self, token: str) -> None:
        """Leave the queue."""
        self._ask("CancelReservation", self._pb.CancelReservationRequest(token=token))

    def reservations(self) -> list[Standing]:
        """Everybody's."""
        told = self._ask("GetReservations", self._pb.GetReservationsRequest())
        return [_standing(each) for each in told.reservations]

    def acquire(self, place: str) -> None:
        """Take it, with all that is exported for it."""
        self._ask("AcquirePlace", self._pb.AcquirePlaceRequest(placename=place))

    def touch(self, place: str, note: str) -> None:
        """Say that its owner lives; refused unless that is us."""
        self._ask("AllowPlace", self._pb.AllowPlaceRequest(placename=place, user=note))

    def release(self, place: str, owner: str = "") -> None:
        """Free it; with `owner` only if it is still that one's."""
        words = {"fromuser": owner} if owner else {}
        self._ask("ReleasePlace", self._pb.ReleasePlaceRequest(placename=place, **words))

    def tag(self, place: str, tags: Mapping[str, str]) -> None:
        """Add to a place's tags; "" takes one away."""
        self._ask("SetPlaceTags", self._pb.SetPlaceTagsRequest(placename=place, tags=dict(tags)))

    def close(self) -> None:
        """Leave.  Idempotent; what is held stays so."""
        self._closed.set()
        with self._news:
            if self._call is not None:
                self._call.cancel()
            self._happened()
        if self._thread is not threading.current_thread():
            self._thread.join()

    # -- inside -------------------------------------------------------------------

    def _ask(self, method: str, request: Any) -> Any:
        with self._news:
            stub, generation = self._stub, self.generation
        if stub is None:
            raise self._gone(self._trouble or "no answer")
        try:
            return getattr(stub, method)(request, timeout=_REQUEST_S)
        except self._grpc.RpcError as error:
            code, said = error.code().name, str(error.details())
            stranger = "valid session" in said  # a connection that is not the stream's
            if code not in _NO or stranger or self.generation != generation:
                raise self._gone(f"{method}: {said or code}") from error
            raise Refused(
                f"the coordinator refused: {said}",
                where=self.address,
                cure="see `labgrid-client places` and `labgrid-client who`",
            ) from error
        except ValueError as error:  # the channel was closed under us
            raise self._gone(f"{method}: {error}") from error

    def _follow(self) -> None:
        while not self._closed.is_set():
            channel = self._grpc.insecure_channel(self.address, options=_OPTIONS)
            try:
                self._stream(self._rpc.CoordinatorStub(channel))
                said = "it ended the connection"
            except self._grpc.RpcError as error:
                said = str(error.details() or error.code())
            with self._news:
                self._stub = self._call = None
                self._trouble = said
                self._happened()
            channel.close()
            self._closed.wait(_AGAIN_S)

    def _stream(self, stub: Any) -> None:
        """Follow one connection to its end."""
        out: queue.SimpleQueue[Any] = queue.SimpleQueue()
        startup = self._pb.StartupDone(version="tdrlab", name=self.owner)
        out.put(self._pb.ClientInMessage(startup=startup))
        for what in ("all_places", "all_resources"):
            wanted = self._pb.Subscribe(**{what: True})
            out.put(self._pb.ClientInMessage(subscribe=wanted))
        out.put(self._pb.ClientInMessage(sync=self._pb.Sync(id=1)))
        call = stub.ClientStream(iter(out.get, None))
        with self._news:
            if self._closed.is_set():
                return
            self._call = call
        try:
            places: dict[str, Place] = {}
            exports: dict[tuple[str, str, str], Export] = {}
            for message in call:
                with self._news:
                    for update in message.updates:
                        _apply(update, places, exports)
                    if message.HasField("sync"):
                        # From here on it has told all: what was known before is forgotten.
                        self._places, self._exports = places, exports
                        self._stub = stub
                        self.generation += 1
                    self._happened()
        finally:
            out.put(None)

    def _happened(self) -> None:
        self.version += 1
        self._news.notify_all()

    def _gone(self, said: str) -> Gone:
        return Gone(
            f"the labgrid coordinator does not answer: {said}",
            where=self.address,
            cure="is labgrid-coordinator running there? see coordinator under [lab]",
        )


def _modules() -> tuple[Any, Any, Any]:
    # We fork to start programs only; its handlers would merely complain of our threads.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    generated = "labgrid.remote.generated.labgrid_coordinator_pb2"
    try:
        return import_module("grpc"), import_module(generated), import_module(f"{generated}_grpc")
    except ImportError as error:
        raise UsageError(
            f"the target list names a labgrid coordinator, but labgrid is not installed: {error}",
            where="[lab] coordinator",
            cure='pip install "tdrlab[labgrid]", or take coordinator out of the target list',
        ) from error


def _has_port(address: str) -> bool:
    return address.rpartition(":")[2].isdigit() and (
        "]" in address or address.count(":") == 1  # an IPv6 address has a port only behind ]
    )


def _apply(
    update: Any, places: dict[str, Place], exports: dict[tuple[str, str, str], Export]
) -> None:
    kind = update.WhichOneof("kind")
    if kind == "place":
        places[update.place.name] = _place(update.place)
    elif kind == "del_place":
        places.pop(update.del_place, None)
    elif kind == "resource":
        exports[_path(update.resource.path)] = _export(update.resource)
    elif kind == "del_resource":
        exports.pop(_path(update.del_resource), None)


def _path(path: Any) -> tuple[str, str, str]:
    return path.exporter_name, path.group_name, path.resource_name


def _place(told: Any) -> Place:
    return Place(
        name=told.name,
        tags=dict(told.tags),
        matches=tuple(Match(m.exporter, m.group, m.cls, m.name, m.rename) for m in told.matches),
        acquired=told.acquired,
        allowed=tuple(told.allowed),
        changed=told.changed,
        reservation=told.reservation,
        resources=tuple(told.acquired_resources),
    )


def _export(told: Any) -> Export:
    exporter, group, name = _path(told.path)
    params, extra = ({k: _value(v) for k, v in m.items()} for m in (told.params, told.extra))
    return Export(exporter, group, told.cls, name, params, extra, told.avail)


def _value(told: Any) -> object:
    kind = told.WhichOneof("kind")
    return None if kind is None else getattr(told, kind)


def _standing(told: Any) -> Standing:
    main = told.filters["main"].filter if "main" in told.filters else {}
    return Standing(
        token=told.token,
        owner=told.owner,
        state=_STATES[told.state] if told.state < len(_STATES) else "invalid",
        filters=dict(main),
        prio=told.prio,
        created=told.created,
        place=told.allocations.get("main", ""),
    )
