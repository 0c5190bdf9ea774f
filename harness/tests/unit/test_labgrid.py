"""Places of labgrid as facts: whose, who is next, who is dead, and what target a place makes."""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import ways
from harness.errors import LabError, UsageError
from harness.inventory import Target, load
from harness.labgrid.exports import completed
from harness.labgrid.listing import toml_of
from harness.labgrid.places import (
    Export,
    Match,
    Place,
    Standing,
    Watch,
    exports_of,
    note_of,
    position,
    unmatched,
)

OWNER = "labhost/keeper.17.abcdef"
NOTE = note_of(OWNER, "2026-11-23T07:00:00Z", "lab nightly\n  -- -k hang")
MINE = Place("box", acquired=OWNER, allowed=("labhost/else", NOTE), changed=1000.0)


def test_a_note_says_since_when_and_for_what() -> None:
    assert f"{OWNER} since 2026-11-23T07:00:00Z: lab nightly -- -k hang" == NOTE
    assert MINE.told() == f"box: {NOTE}"
    other = msgspec.structs.replace(MINE, acquired="labhost/person")
    assert (other.note(), other.told()) == ("", "box: labhost/person")
    assert Place("box").told() == "box: free"
    assert len(note_of(OWNER, "now", "x" * 1000)) == 200


def test_silence_is_death_but_not_too_early() -> None:
    watch = Watch(60.0)
    watch.see([MINE], 0.0)
    # The coordinator's clock is ours: silent for ever, but watched for a moment only.
    assert not watch.dead(MINE, 29.0, 5000.0)
    assert watch.suspect(MINE, 29.0, 5000.0)
    assert watch.dead(MINE, 30.0, 5000.0)
    # A clock that runs behind tells nothing; then it must be watched for the whole time.
    assert not watch.dead(MINE, 59.0, 1010.0)
    assert not watch.suspect(MINE, 59.0, 1010.0)
    assert watch.dead(MINE, 60.0, 1010.0)
    moved = msgspec.structs.replace(MINE, changed=1001.0)
    watch.see([moved], 60.0)
    assert not watch.dead(moved, 61.0, 5000.0)
    person = msgspec.structs.replace(MINE, allowed=())
    watch.see([person], 100.0)
    assert not watch.dead(person, 1e6, 1e9)
    assert not watch.suspect(person, 1e6, 1e9)


@given(st.lists(st.floats(0, 14.9), max_size=50), st.floats(0, 1e6), st.floats(-1e6, 1e6))
def test_who_touches_his_place_often_enough_is_never_dead(
    pauses: list[float], start: float, skew: float
) -> None:
    """A quarter of `stale_s` between touches, whatever the clocks say."""
    watch, now, place = Watch(60.0), start, MINE
    for number, pause in enumerate(pauses):
        watch.see([place], now)
        assert not watch.dead(place, now + 15.0, now + skew)
        now += pause
        place = msgspec.structs.replace(MINE, changed=1000.0 + number + 1)


def test_the_queue_is_of_those_who_want_what_we_want() -> None:
    places = [
        Place("a", {"gen3": "yes", "display": "yes"}),
        Place("b", {"gen3": "yes"}),
        Place("c", {"navi": "yes"}),
    ]

    def waits(token: str, created: float, prio: float = 0.0, **tags: str) -> Standing:
        return Standing(token, "h/u", "waiting", tags, prio, created)

    mine = waits("M", 5.0, gen3="yes", display="yes")
    others = [
        waits("elder", 1.0, gen3="yes"),
        waits("named", 2.0, name="a"),
        waits("elsewhere", 0.0, navi="yes"),
        waits("younger", 9.0, gen3="yes"),
        waits("first", 9.0, 1.0, name="a"),
        Standing("has it", "h/u", "acquired", {"gen3": "yes"}, 0.0, 0.0, "b"),
        mine,
    ]
    assert position(mine, others, places) == (4, 5)
    assert position(mine, [], places) == (1, 1)


SERVICE = Export(
    "rack", "box", "NetworkService", "NetworkService",
    {"address": "10.0.0.9", "username": "lab", "port": 2222}, {}, True,
)  # fmt: skip
SERIAL = Export(
    "rack", "box", "NetworkSerialPort", "console",
    {"host": "rack", "port": 4001, "speed": 9600}, {"path": "/dev/ttyUSB0"}, True,
)  # fmt: skip
PDU = Export(
    "rack", "box", "PDUDaemonPort", "power",
    {"host": "pdu.lab", "pdu": "rack", "index": 7}, {}, True,
)  # fmt: skip
BOX = Place("box", {"host_key": "SHA256:x", "gen3": "yes"}, (Match("rack", "box", "*"),))
TARGET = Target(driver="i915", name="box", place="box")


def made(*parts: Export, target: Target = TARGET, place: Place = BOX) -> Target:
    return completed(target, place, exports_of(place, parts))


def but(export: Export, **changes: object) -> Export:
    return msgspec.structs.replace(export, params={**export.params, **changes})


def test_a_place_makes_a_target() -> None:
    target = made(SERVICE, SERIAL, PDU)
    assert (target.address, target.port, target.user) == ("10.0.0.9", 2222, "lab")
    assert target.host_key == "SHA256:x"
    assert target.console == ways.Rfc2217Console(host="rack", port=4001, baud=9600)
    assert target.power == ways.PdudaemonPower(
        url="http://pdu.lab:16421", pdu="rack", outlet=7, settle_s=10.0
    )
    raw = made(SERVICE, but(SERIAL, protocol="raw"), but(PDU, host="http://pdu.lab:99"))
    assert raw.console == ways.TcpConsole(host="rack", port=4001)
    assert isinstance(raw.power, ways.PdudaemonPower)
    assert raw.power.url == "http://pdu.lab:99"
    assert made(SERVICE).console == ways.NoConsole()


def test_any_pdu_of_labgrids_is_a_command() -> None:
    outlet = Export(
        "rack", "box", "NetworkPowerPort", "p",
        {"model": "gude", "host": "gude.lab", "index": "3"}, {}, True,
    )  # fmt: skip
    power = made(SERVICE, outlet).power
    assert isinstance(power, ways.CommandPower)
    assert power.off[1:] == ("-m", "harness.labgrid.pdu", "gude", "gude.lab", "3", "off")
    assert power.query is not None
    assert power.query[-1] == "query"


def test_what_the_target_list_says_comes_first() -> None:
    own = Target(
        driver="i915",
        name="box",
        place="box",
        address="box.lab",
        host_key="SHA256:mine",
        console=ways.TcpConsole(host="c", port=1),
        power=ways.CommandPower(on=("on",), off=("off",)),
    )
    assert made(SERVICE, SERIAL, PDU, target=own) == own
    other = msgspec.structs.replace(TARGET, port=2200, user="me")
    assert (made(SERVICE, target=other).port, made(SERVICE, target=other).user) == (2200, "me")


@pytest.mark.parametrize(
    ("parts", "target", "place", "said"),
    [
        ((SERIAL,), TARGET, BOX, "has no address, and its place has no NetworkService"),
        ((SERVICE,), TARGET, Place("box", {}, BOX.matches), "no host key"),
        ((SERVICE, but(SERIAL, port=None)), TARGET, BOX, "has no port yet"),
        ((SERVICE, but(SERIAL, port="x")), TARGET, BOX, "has no port yet"),
        (
            (SERVICE, SERIAL, msgspec.structs.replace(SERIAL, name="bmc", group="box")),
            TARGET,
            BOX,
            "",
        ),
        (
            (SERVICE, *(msgspec.structs.replace(SERIAL, name=n) for n in "ab")),
            TARGET,
            BOX,
            "has several of NetworkSerialPort, and not one of them is called 'console'",
        ),
        # Another outlet would be another machine's power.
        ((SERVICE, but(PDU, index=None)), TARGET, BOX, "it has no index"),
        ((SERVICE, but(PDU, index="A3")), TARGET, BOX, "its index is no number: 'A3'"),
        ((SERVICE, but(PDU, host="h:abc")), TARGET, BOX, "its host is 'h:abc'"),
        ((SERVICE, but(PDU, host=None)), TARGET, BOX, "it has no host"),
        ((msgspec.structs.replace(SERVICE, avail=False),), TARGET, BOX, "is not available"),
        (
            (msgspec.structs.replace(SERVICE, extra={"proxy_required": True}),),
            TARGET,
            BOX,
            "only to be had through an SSH proxy",
        ),
        (
            (but(SERVICE, address="127.0.0.1"),),
            msgspec.structs.replace(TARGET, destructive=True),
            BOX,
            "this very machine",
        ),
    ],
)
def test_what_a_place_lacks_is_told(
    parts: tuple[Export, ...], target: Target, place: Place, said: str
) -> None:
    if not said:
        console = made(*parts, target=target, place=place).console
        assert console == ways.Rfc2217Console(host="rack", port=4001, baud=9600)
        return
    with pytest.raises((UsageError, LabError), match=said) as caught:
        made(*parts, target=target, place=place)
    assert caught.value.cure
    assert "box" in caught.value.where


def test_patterns_without_an_export_are_told() -> None:
    place = Place("box", {}, (Match("rack", "box", "NetworkService"), Match("*", "x", "*", "y")))
    assert unmatched(place, [SERVICE]) == ["*/x/*/y"]
    named = Place("box", {}, (Match("rack", "*", "NetworkS*Port", "con*", "tty"),))
    assert exports_of(named, [SERVICE, SERIAL]) == [("tty", SERIAL)]


HOSTILE = st.text(st.characters(codec="utf-8"), max_size=20)


@given(st.lists(st.tuples(HOSTILE, st.dictionaries(HOSTILE, HOSTILE, max_size=4)), max_size=5))
def test_the_list_made_of_places_is_toml_whatever_they_are_called(
    told: list[tuple[str, dict[str, str]]],
) -> None:
    places = [Place(n, {"driver": "i915", **t}, (Match("*", "*", "*"),)) for n, t in told]
    fine = [place for place in places if place.tags["driver"] in ("i915", "amdgpu")]
    parsed = tomllib.loads(toml_of(places, [SERVICE])).get("targets", {})
    assert sorted(entry["place"] for entry in parsed.values()) == sorted(p.name for p in fine)


def test_the_list_made_of_places_can_be_read(tmp_path: Path) -> None:
    tags = {"driver": "i915", "host_key": "SHA256:x", "gen3": "yes", "rack": "4", "tdrlab_by": "h"}
    places = [Place("box 1", tags), Place("none", {}), Place("box-1", {"driver": "amdgpu"})]
    path = tmp_path / "targets.toml"
    path.write_text(f'[lab]\ncoordinator = "labhost"\n{toml_of(places, [])}')
    targets = load(path).targets
    assert set(targets) == {"box-1", "box-1-2"}
    assert targets["box-1"].filters == {"name": "box 1"}
    assert targets["box-1"].tags == ("gen3", "rack=4")
    assert targets["box-1-2"].driver == "amdgpu"
    spec = targets["box-1"].coordinator
    assert spec is not None
    assert (spec.address, spec.take_over) == ("labhost", "dead")
    assert "coordinator" not in targets["box-1"].public()
