"""What a person at a desk asks of a coordinator: which places there are, whose, and to free one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import get_args, get_type_hints

from harness.deadline import Deadline
from harness.errors import LabError
from harness.inventory import Coordinator, Target
from harness.labgrid.hold import own_name
from harness.labgrid.places import Export, Place, exports_of, fitting
from harness.labgrid.session import Gone, Refused, Session

__all__ = ["holders", "kick", "target_list", "toml_of"]

# Seconds for a coordinator to answer somebody who looks.
_LOOK_S = 5.0
# Tags that are keys of a target list's entry; of all others a word is made.
_KEYS = ("driver",)
_HOST_KEY = "host_key"
_YES = ("yes", "true", "1")


def target_list(spec: Coordinator) -> str:
    """Entries for a target list, one for each place.  Raises Gone when nobody answers."""
    session = Session(spec.address, own_name())
    try:
        session.reach(Deadline(_LOOK_S))
        return toml_of(session.places().values(), session.exports())
    finally:
        session.close()


def toml_of(places: Iterable[Place], exports: Iterable[Export]) -> str:
    """As `target_list`.  Names and tags are anybody's: they are quoted, in comments, too."""
    known = list(exports)
    drivers = get_args(get_type_hints(Target)["driver"])
    entries = []
    called: set[str] = set()
    for place in sorted(places, key=lambda each: each.name):
        lines = [
            f"[targets.{_quoted(_name(place.name, called))}]",
            f"place = {_quoted(place.name)}",
        ]
        lacking = [] if place.tags.get("driver") in drivers else ["driver"]
        lines += [f"{key} = {_quoted(place.tags[key])}" for key in _KEYS if key in place.tags]
        words = [key if value in _YES else f"{key}={value}" for key, value in _words(place.tags)]
        if words:
            lines.append(f"tags = [{', '.join(map(_quoted, sorted(words)))}]")
        if _HOST_KEY not in place.tags:
            lines.append('# host_key = "SHA256:..."   # ssh-keyscan HOST | ssh-keygen -lf -')
        for name, export in exports_of(place, known):
            lines.append(f"# {_quoted(name)}: {_quoted(export.path)}")
        lines.append("# destructive = true   # its keeper's word that this GPU may be hung")
        if lacking:
            # Without its driver it would make the whole list one that cannot be read.
            hint = f"# no driver: labgrid-client -p PLACE set-tags driver={'|'.join(drivers)}"
            lines = [hint, *(f"# {line}" for line in lines)]
        entries.append("\n".join(lines))
    return "\n\n".join(entries) + "\n"


def holders(targets: Iterable[Target]) -> dict[str, str]:
    """Whose the places of `targets` are, in words, by target; "?" where nobody answers."""
    found: dict[str, str] = {}
    shared = [target for target in targets if target.coordinator is not None]
    if not shared or shared[0].coordinator is None:
        return found
    session = Session(shared[0].coordinator.address, own_name())
    try:
        session.reach(Deadline(_LOOK_S))
        places = session.places().values()
        for target in shared:
            held = [p for p in fitting(places, target.filters) if p.acquired]
            found[target.name] = "; ".join(place.note() or place.acquired for place in held)
    except Gone:
        found = {target.name: "? (the coordinator is away)" for target in shared}
    finally:
        session.close()
    return found


def kick(target: Target) -> str:
    """Free the target's place whoever has it; who that was, "" nobody.

    Raises LabError where that fails, or it is not one place that is meant.
    """
    assert target.coordinator is not None
    if target.place is None:
        raise LabError(
            "may be any of several places",
            where=target.name,
            cure="labgrid-client -p PLACE release --kick",
        )
    session = Session(target.coordinator.address, own_name())
    try:
        session.reach(Deadline(_LOOK_S))
        place = session.places().get(target.place)
        if place is None or not place.acquired:
            return ""
        session.release(place.name, place.acquired)
        return place.note() or place.acquired
    except Refused as error:
        raise LabError(error.what, where=target.name, cure=error.cure) from error
    finally:
        session.close()


def _words(tags: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    own = (*_KEYS, _HOST_KEY)
    return ((k, v) for k, v in tags.items() if k not in own and not k.startswith("tdrlab_"))


def _name(place: str, called: set[str]) -> str:
    """As a target may be called, and none before it."""
    word = re.sub(r"[^A-Za-z0-9._-]", "-", place)[:50].lstrip("._-") or "place"
    name, number = word, 1
    while name in called:
        number += 1
        name = f"{word}-{number}"
    called.add(name)
    return name


def _quoted(text: str) -> str:
    # A TOML basic string is a JSON one, but for DEL, and surrogates in escapes.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
