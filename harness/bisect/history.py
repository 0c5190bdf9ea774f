"""The range of a bisect as git has it: commits, parents, titles.

git itself walks: --first-parent and path limits mean what they mean to `git rev-list`, which also
rewrites the parents of what they leave.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from harness.bisect.dag import Dag
from harness.errors import UsageError

__all__ = ["Commit", "History", "git"]


class Commit(Struct, frozen=True):
    """One commit that may be the culprit."""

    id: str
    title: str
    author: str
    parents: tuple[int, ...]
    """Those within the range, as indices."""


class History(Struct, frozen=True):
    """The commits after every good one, up to the bad one; parents before children."""

    tree: str
    commits: tuple[Commit, ...]

    @classmethod
    def read(
        cls,
        tree: Path,
        good: Sequence[str],
        bad: str,
        *,
        first_parent: bool = False,
        paths: Sequence[str] = (),
    ) -> History:
        """From the repository `tree`.  Raises UsageError where there is no such range."""
        for name in good:
            base = git(tree, "merge-base", "--is-ancestor", name, bad, check=False)
            if base.returncode == 1:
                raise UsageError(
                    f"{name} is no ancestor of {bad}: what broke may as well have been mended",
                    where=str(tree),
                    cure=f"test $(git merge-base {name} {bad}), and name that as the good one",
                )
        walk = ["rev-list", "--topo-order", "--reverse", "--parents"]
        walk += ["--first-parent"] if first_parent else []
        ends = [git(tree, "rev-parse", f"{bad}^{{commit}}").stdout.strip()]
        ends += ["^" + git(tree, "rev-parse", f"{name}^{{commit}}").stdout.strip() for name in good]
        walked = git(tree, *walk, *ends, "--", *paths).stdout.split("\n")
        rows = [line.split() for line in walked if line]
        if not rows:
            raise UsageError(
                f"no commit between {', '.join(good)} and {bad}"
                + (f" touches {', '.join(paths)}" if paths else ""),
                where=str(tree),
                cure="name a good commit that is older than the bad one",
            )
        numbers = {row[0]: number for number, row in enumerate(rows)}
        named = _named(tree, [row[0] for row in rows])
        commits = []
        for commit, *parents in rows:
            mine = parents[:1] if first_parent else parents
            inside = tuple(numbers[one] for one in mine if one in numbers)
            commits.append(Commit(commit, *named[commit], inside))
        return cls(str(tree.resolve()), tuple(commits))

    def dag(self) -> Dag:
        """Who descends from whom."""
        return Dag([commit.parents for commit in self.commits])

    def __len__(self) -> int:
        return len(self.commits)

    def label(self, commit: int) -> str:
        """For people."""
        one = self.commits[commit]
        return f"{one.id[:12]} {one.title}"


def _named(tree: Path, commits: list[str]) -> dict[str, tuple[str, str]]:
    """Title and author of each."""
    form = "--format=%H%x00%s%x00%an <%ae>"
    asked = ["log", "--no-walk=unsorted", "--stdin", form]
    said = git(tree, *asked, stdin="".join(f"{one}\n" for one in commits)).stdout
    rows = [line.split("\0") for line in said.splitlines() if line.count("\0") == 2]
    return {row[0]: (row[1], row[2]) for row in rows}


def git(
    tree: Path, *words: str, stdin: str = "", check: bool = True
) -> subprocess.CompletedProcess[str]:
    """One git command in `tree`.  Raises UsageError with what git said."""
    argv = ["git", "-C", str(tree), *words]
    try:
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, errors="replace")
    except OSError as error:
        raise UsageError(
            f"git cannot be started: {error.strerror}", cure="apt-get install git"
        ) from error
    if done.returncode > int(not check):
        raise UsageError(
            f"git {words[0]}: {done.stderr.strip() or 'failed'}",
            where=str(tree),
            cure="name a git repository, and commits that are in it",
        )
    return done
