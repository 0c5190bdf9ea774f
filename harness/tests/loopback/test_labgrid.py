"""Places of a real labgrid coordinator: queued for, held, given back, lost and got back."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from harness.cli import main
from harness.deadline import Deadline
from harness.errors import LabError, UsageError
from harness.inventory import Inventory, Target, load
from harness.lab.claims import claimed, claims_for
from harness.lab.holds import hold
from harness.labgrid.claims import PlaceClaims
from harness.labgrid.hold import ACTS_FOR, PlaceHold, own_name
from harness.labgrid.places import Standing
from harness.labgrid.session import Gone, Session
from harness.tests.loopback.labgrids import Coordinators, place_of
from harness.tests.loopback.servers import until

FREE = ("alone", "queue", "stale", "again", "taken", "kicked", "mute", "deleted", "left")


@pytest.fixture(scope="module")
def coordinators(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinators]:
    places = {name: place_of() for name in FREE}
    places["gen3-a"] = place_of({"gen3": "yes", "display": "yes"})
    places["gen3-b"] = place_of({"gen3": "yes"})
    places["away"] = place_of({}, "nobody/*/NetworkService/*")
    made = Coordinators(tmp_path_factory.mktemp("coordinator"), places).start()
    yield made
    made.stop()


@pytest.fixture
def joined(coordinators: Coordinators) -> Iterator[Callable[[], Session]]:
    """Makes sessions, each with a name of its own as other processes have; closes them."""
    sessions: list[Session] = []

    def make() -> Session:
        sessions.append(Session(coordinators.address, own_name()))
        return sessions[-1]

    yield make
    for session in sessions:
        session.close()


Joined = Callable[[], Session]


def reserves(session: Session) -> list[Standing]:
    """What of the queues is a session's."""
    return [one for one in session.reservations() if one.owner == session.owner]


def take(session: Session, place: str, spec: Coordinators, **more: object) -> PlaceHold:
    changes = {k: more.pop(k) for k in ("stale_s", "take_over", "patience_s") if k in more}
    return PlaceHold.take(session, {"name": place}, spec.spec(**changes), "a run", **more)  # type: ignore[arg-type]


def test_a_place_is_held_by_one_and_says_by_whom(
    coordinators: Coordinators, joined: Joined
) -> None:
    mine, other = joined(), joined()
    held = take(mine, "alone", coordinators)
    assert held.place().acquired == mine.owner
    with pytest.raises(LabError, match=r"held by alone: .* since 20.*: a run") as caught:
        take(other, "alone", coordinators)
    assert mine.owner in caught.value.what
    held.check()
    assert held.lost() == ""
    held.release()
    held.release()
    until(lambda: not mine.places()["alone"].acquired, "it is free")
    take(other, "alone", coordinators).release()
    assert not reserves(other)


def test_any_with_these_tags(coordinators: Coordinators, joined: Joined) -> None:
    session = joined()
    wanted = {"gen3": "yes", "display": "yes"}
    held = PlaceHold.take(session, wanted, coordinators.spec(), "a run")
    assert held.place_name == "gen3-a"
    second = PlaceHold.take(joined(), {"gen3": "yes"}, coordinators.spec(), "a run")
    assert second.place_name == "gen3-b"
    with pytest.raises(UsageError, match="no place of the coordinator's has the tags gen4=yes"):
        PlaceHold.take(joined(), {"gen4": "yes"}, coordinators.spec(), "a run")
    with pytest.raises(UsageError, match=r"no place 'allone' \(did you mean 'alone'\?\)"):
        take(joined(), "allone", coordinators)
    second.release()
    held.release()


def test_who_waits_is_told_his_number_and_is_next(
    coordinators: Coordinators, joined: Joined
) -> None:
    first = take(joined(), "queue", coordinators)
    lines: list[str] = []
    order: list[str] = []

    def wait(name: str) -> None:
        held = take(joined(), "queue", coordinators, wait_s=120.0, say=lines.append)
        order.append(name)
        held.release()

    threads = []
    for name in ("second", "third"):
        threads.append(threading.Thread(target=wait, args=(name,)))
        threads[-1].start()
        until(lambda: len(queued(first)) >= len(threads), "it waits")
    until(lambda: any("number 2 of 2" in line for line in lines), "its number is told")
    assert any("next in the queue, held by queue: " in line for line in lines)
    first.release()
    for thread in threads:
        thread.join(120)
    assert order == ["second", "third"]


def queued(held: PlaceHold) -> list[Standing]:
    """Who waits for its place."""
    told = held._session.reservations()
    return [one for one in told if one.filters == {"name": held.place_name} and not one.place]


def test_an_owner_that_went_silent_is_taken_over_if_that_is_allowed(
    coordinators: Coordinators, joined: Joined
) -> None:
    dead = take(joined(), "stale", coordinators, stale_s=1000.0)
    with pytest.raises(LabError, match="held by stale"):
        take(joined(), "stale", coordinators, take_over="never", stale_s=0.2, wait_s=0.6)
    heir = take(joined(), "stale", coordinators, stale_s=0.5, wait_s=60.0)
    assert dead._session.owner in heir.taken_over
    with pytest.raises(LabError, match="the reservation is lost: somebody released it"):
        dead.check()
    assert dead.lost()
    dead.release()
    heir.check()
    heir.release()


def test_one_who_says_nothing_but_is_no_harness_is_never_taken_over(
    coordinators: Coordinators, joined: Joined
) -> None:
    person = joined()
    person.reach(Deadline(60))
    person.acquire("mute")
    with pytest.raises(LabError, match=f"held by mute: {person.owner}"):
        take(joined(), "mute", coordinators, stale_s=0.2, wait_s=1.0)
    person.release("mute")


def test_who_lives_is_not_taken_over(coordinators: Coordinators, joined: Joined) -> None:
    held = take(joined(), "queue", coordinators, stale_s=4.0)
    before = held.place().changed
    with pytest.raises(LabError, match="held by queue"):
        take(joined(), "queue", coordinators, stale_s=1000.0, wait_s=0.0)
    until(lambda: held.place().changed > before, "it says that it lives")
    held.check()
    held.release()


def test_an_owner_may_acquire_anew_under_another_of_its_processes(
    coordinators: Coordinators, joined: Joined
) -> None:
    """As after a restart of the coordinator, when the exporter is back."""
    held = take(joined(), "alone", coordinators)
    own = Session(coordinators.address, held._session.owner)
    twin = PlaceHold.join(own, {"name": "alone"}, coordinators.spec(), "its session")
    mine = held._session.reserve({"name": "alone"}, prio=1.0)
    held._session.release("alone", held._session.owner)
    said: list[str] = []
    asks = threading.Thread(target=lambda: said.append(twin.lost()))
    asks.start()
    until(lambda: own.places()["alone"].reservation == mine.token, "it is told of the gap")
    assert said == []
    held._session.acquire("alone")
    held._session.cancel(mine.token)
    asks.join(60)
    assert said == [""]
    assert held.lost() == ""
    twin.release()
    own.close()
    assert held.place().acquired == held._session.owner
    held.release()


def test_a_kick_is_told(coordinators: Coordinators, joined: Joined) -> None:
    held = take(joined(), "kicked", coordinators)
    joined_too = joined()
    joined_too.reach(Deadline(60))
    joined_too.release("kicked")
    assert "somebody released it" in held.lost()
    held.release()


def test_a_place_whose_exporter_is_away_cannot_be_had(
    coordinators: Coordinators, joined: Joined
) -> None:
    session = joined()
    with pytest.raises(LabError, match=r"nothing is exported as nobody/\*/NetworkService/\*"):
        take(session, "away", coordinators, patience_s=0.1)
    assert not session.places()["away"].acquired
    assert not reserves(session)


def test_after_a_restart_owners_come_first_and_others_learn_that_they_lost(
    coordinators: Coordinators, joined: Joined
) -> None:
    kept, lost = take(joined(), "again", coordinators), take(joined(), "taken", coordinators)
    thief = joined()
    thief.reach(Deadline(60))
    waiting = joined()
    got: list[PlaceHold] = []
    queued = threading.Thread(
        target=lambda: got.append(take(waiting, "again", coordinators, wait_s=300.0))
    )
    queued.start()
    until(lambda: any(r.owner == waiting.owner for r in thief.reservations()), "it waits")
    coordinators.kill()
    with lost._lock:  # as if its host were slow to notice
        coordinators.start()
        thief.reach(Deadline(60))
        until(lambda: _acquired(thief, "taken"), "somebody else was quicker")
    kept.check()
    until(lambda: kept.place().acquired == kept._session.owner, "it is told")
    with pytest.raises(LabError, match=f"taken by others while .*: taken: {thief.owner}"):
        lost.check()
    lost.release()
    until(lambda: thief.places()["taken"].acquired == thief.owner, "it is still theirs")
    thief.release("taken")
    assert got == []
    kept.release()
    queued.join(120)
    got[0].release()


def listed(folder: Path, coordinators: Coordinators, *names: str) -> Inventory:
    """A target list of places that are only locks."""
    path = folder / "targets.toml"
    rest = 'driver = "i915"\naddress = "box.lab"\nhost_key = "SHA256:x"\n'
    places = "".join(f'[targets.{name}]\nplace = "{name}"\n{rest}' for name in names)
    path.write_text(coordinators.lab() + places)
    return load(path)


def test_sessions_of_a_dispatcher_use_its_place(
    coordinators: Coordinators,
    joined: Joined,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv(ACTS_FOR, raising=False)
    targets = listed(tmp_path, coordinators, "alone", "again").targets
    watcher = joined()
    watcher.reach(Deadline(60))
    with claimed(targets["alone"], "lab bisect", print):
        for _ in range(2):
            with hold(targets["alone"], "a session of its") as held:
                held.check()
            assert watcher.places()["alone"].acquired == os.environ[ACTS_FOR]
        with pytest.raises(LabError, match=r"no place is .*'s, which started this session"):
            _join_at_once(targets["again"], coordinators, watcher)
        mine = claims_for([targets["alone"]], "", "a night")
        until(lambda: "lab bisect" in mine.ask("alone").who, "it is told who has it")
        assert mine.ask("alone").state == "busy"
        mine.close()
    assert ACTS_FOR not in os.environ
    until(lambda: not watcher.places()["alone"].acquired, "it is given back")


def _join_at_once(target: Target, coordinators: Coordinators, session: Session) -> None:
    PlaceHold.join(session, target.filters, coordinators.spec(patience_s=0.1), "a session")


def test_what_one_dispatcher_did_the_other_passes_over(
    coordinators: Coordinators, tmp_path: Path
) -> None:
    targets = list(listed(tmp_path, coordinators, "alone", "queue").targets.values())
    first, second, alone = (claims_for(targets, name, "a night") for name in ("x", "x", ""))
    until(lambda: first.ask("alone").state == "ours", "the first has it")
    until(lambda: second.ask("alone").state == "busy" and second.ask("alone").who, "it is busy")
    first.end("alone", done=True)
    until(lambda: second.ask("alone").state == "done", "it is done")
    until(lambda: alone.ask("alone").state == "ours", "who shares nothing tests it again")
    until(lambda: first.ask("queue").state == "ours", "the first has another")
    first.end("queue", done=False)
    until(lambda: second.ask("queue").state == "ours", "what was interrupted is not done")
    for claims in (first, second, alone):
        claims.close()


def test_a_done_place_that_is_deleted_is_no_trouble_of_other_targets(
    coordinators: Coordinators,
    joined: Joined,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("harness.labgrid.claims.GRACE_S", 0.0)
    targets = listed(tmp_path, coordinators, "deleted", "alone").targets
    places = PlaceClaims(targets, coordinators.spec(), "y", "a night")
    until(lambda: places.ask("deleted")[0] == "ours", "it is ours")
    places.end("deleted", done=True)
    keeper = joined()
    keeper.reach(Deadline(60))
    keeper._ask("DeletePlace", keeper._pb.DeletePlaceRequest(name="deleted"))
    until(lambda: "deleted" not in places._session.places(), "it is told")
    # As when the coordinator was restarted: what is done is to be told again.
    seen = places._session.generation
    places._session._call.cancel()
    until(lambda: places._session.generation > seen, "it is there again")
    until(lambda: places.ask("alone")[0] != "busy", "another is asked for")
    assert places.ask("alone")[0] == "ours"
    places.close()


def test_who_keeps_a_place_ends_with_the_connection(
    coordinators: Coordinators, joined: Joined
) -> None:
    session = joined()
    held = take(session, "left", coordinators, stale_s=1000.0)
    session.close()
    held._keeper.join(60)
    assert not held._keeper.is_alive()
    other = joined()
    other.reach(Deadline(60))
    other.release("left")


def test_a_place_that_is_not_there_fails_and_stops_no_night(
    coordinators: Coordinators, tmp_path: Path
) -> None:
    targets = list(listed(tmp_path, coordinators, "nowhere").targets.values())
    claims = claims_for(targets, "", "a night")
    until(lambda: claims.ask("nowhere").state == "failed", "it fails")
    claims.close()


def lab(path: Path, *args: str) -> Result:
    return CliRunner().invoke(main, ["--inventory", str(path / "targets.toml"), *args])


def test_at_a_desk(
    coordinators: Coordinators, joined: Joined, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "300")
    listed(tmp_path, coordinators, "alone")
    held = take(joined(), "alone", coordinators)
    assert f"{held._session.owner} since" in lab(tmp_path, "targets").output
    told = lab(tmp_path, "targets", "--import")
    assert '# [targets."gen3-a"]' in told.output
    assert "driver=amdgpu|i915" in told.output
    assert f"alone taken from {held._session.owner}" in lab(tmp_path, "unlock", "alone").output
    assert held.lost()
    assert "not held" in lab(tmp_path, "unlock", "alone").output


def test_without_labgrid_the_cure_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, coordinators: Coordinators
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    target = listed(tmp_path, coordinators, "alone").get("alone")
    monkeypatch.setitem(sys.modules, "labgrid.remote.generated.labgrid_coordinator_pb2", None)
    with pytest.raises(UsageError, match="labgrid is not installed") as caught:
        hold(target, "a run")
    assert 'pip install "tdrlab[labgrid]"' in caught.value.cure


def _acquired(session: Session, place: str) -> bool:
    try:
        session.acquire(place)
    except Gone:
        return False
    return True


def test_no_coordinator_is_the_labs_trouble(tmp_path: Path) -> None:
    nobody = Coordinators(tmp_path, {})
    session = Session(nobody.address, own_name())
    with pytest.raises(Gone, match="the labgrid coordinator does not answer"):
        take(session, "alone", nobody, patience_s=0.1)
    session.close()
