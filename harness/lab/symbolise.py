"""Stacks with source lines: each frame gains file:line, and the functions inlined there.

DWARF is read by binutils' addr2line in a process of its own: it is beside every compiler that
built such a kernel, applies a module's relocations, and takes a vmlinux of a gigabyte, for which
readers in Python need minutes.  An image is used only if its build id is the one that the report
names, or, of a report that names none, for the frames whose symbol and size are the image's.
"""

from __future__ import annotations

import re
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from posixpath import normpath

from harness.errors import LabError, UsageError
from harness.kernel.stack import Frame, frame, pointer
from harness.kernel.symbols import Image, Place, kernel_build_id, module_name

__all__ = ["Source", "Symboliser"]

# Of one call; a huge image takes its time to be read.
_PATIENCE_S = 300
_PLACE = re.compile(r"^(?P<file>.*):(?P<line>\d+|\?)(?: \(discriminator \d+\))?$")


@dataclass(frozen=True, slots=True)
class Source:
    """A line of source.  `inlined`: it belongs to a function that was inlined into the next."""

    function: str
    file: str
    line: int
    inlined: bool

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class Symboliser:
    """Images of one kernel, and what their debug info says of frames."""

    def __init__(self, files: Iterable[Path], tool: str = "addr2line") -> None:
        """Read `files` (vmlinux, modules).  Raises UsageError for one that is of no use."""
        self._tool = tool
        self._images: dict[str, Image] = {}
        for path in files:
            image = Image.read(path)
            if not image.debug:
                raise UsageError(
                    f"{path} has no debug info",
                    cure="build with CONFIG_DEBUG_INFO_DWARF_TOOLCHAIN_DEFAULT, or install the "
                    "distribution's debug symbols",
                )
            self._images[module_name(path)] = image
        self._known: dict[tuple[str, Place], tuple[Source, ...]] = {}

    def mismatched(self, lines: Sequence[str]) -> list[str]:
        """Modules ("vmlinux" the kernel) whose image is of another build than the report's."""
        own = kernel_build_id(lines)
        said = {found.module: found.build_id for line in lines if (found := frame(line))}
        wrong = [name for name, build in said.items() if name and self._other(name, build)]
        return sorted(wrong + (["vmlinux"] if self._other("", own) else []))

    def sources(self, lines: Sequence[str]) -> dict[int, tuple[Source, ...]]:
        """The source of each frame of a report, by its line's number, innermost first."""
        wrong, wanted = set(self.mismatched(lines)), dict[int, tuple[str, Place]]()
        for number, line in enumerate(lines):
            seen = pointer(line)
            found = seen or frame(line)
            if found is None or (found.module or "vmlinux") in wrong:
                continue
            place = self._place(found, called=seen is None)
            if place is not None:
                wanted[number] = (found.module, place)
        self._ask({key for key in wanted.values() if key not in self._known})
        return {n: self._known[key] for n, key in wanted.items() if self._known[key]}

    def annotate(self, lines: Sequence[str]) -> list[str]:
        """`lines`, each frame with its source, and a line more for each inlined function."""
        sources = self.sources(lines)
        told: list[str] = []
        for number, line in enumerate(lines):
            *inlined, own = sources.get(number, (None,))
            indent = line[: len(line) - len(line.lstrip())]
            told += [f"{indent}{s.function} at {s} (inlined)" for s in inlined if s]
            told.append(f"{line} at {own}" if own else line)
        return told

    def _other(self, module: str, build: str) -> bool:
        image = self._images.get(module)
        return bool(image and build and image.build_id and image.build_id != build)

    def _place(self, found: Frame, called: bool) -> Place | None:
        image = self._images.get(found.module)
        return image.place(found, called) if image else None

    def _ask(self, wanted: Iterable[tuple[str, Place]]) -> None:
        batches: dict[tuple[str, str], list[Place]] = defaultdict(list)
        for module, place in wanted:
            section = place.section if self._images[module].relocatable else ""
            batches[module, section].append(place)
        for (module, section), places in batches.items():
            answers = self._run(self._images[module].path, section, places)
            for place in places:
                self._known[module, place] = answers.get(place.address, ())

    def _run(
        self, path: Path, section: str, places: Sequence[Place]
    ) -> dict[int, tuple[Source, ...]]:
        argv = [self._tool, "-a", "-f", "-i", "-e", str(path)]
        argv += ["-j", section] if section else []
        asked = "".join(f"{place.address:#x}\n" for place in places)
        try:
            done = subprocess.run(
                argv, input=asked, text=True, capture_output=True, timeout=_PATIENCE_S, check=True,
                errors="replace",
            )  # fmt: skip
        except FileNotFoundError as error:
            raise LabError(f"{self._tool} is not installed", cure="install binutils") from error
        except (OSError, subprocess.SubprocessError) as error:
            raise LabError(
                f"{self._tool} failed on {path}: {error}", cure="see whether the file is whole"
            ) from error
        return _answers(done.stdout.splitlines())


def _answers(lines: Sequence[str]) -> dict[int, tuple[Source, ...]]:
    """addr2line -a -f -i: "0x<address>", then a function and "file:line" in turns, the
    innermost first."""
    found: dict[int, list[tuple[str, str, int]]] = {}
    address, function = 0, ""
    for line in lines:
        if line.startswith("0x"):
            address, function = int(line, 16), ""
            found[address] = []
        elif not function:
            function = line
        else:
            if (place := _PLACE.match(line)) and place["line"] not in ("?", "0"):
                found[address].append((function, normpath(place["file"]), int(place["line"])))
            function = ""
    return {
        address: tuple(
            Source(*parts, inlined=nth < len(stack) - 1) for nth, parts in enumerate(stack)
        )
        for address, stack in found.items()
    }
