"""Quoting and the marks a command leaves on stderr, run by real shells.

The login shell of a target may be any; the script itself is always /bin/sh's.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys

import pytest

from harness.errors import UsageError
from harness.link.command import KILL, Command

__all__: list[str] = []

_SHELLS = [shell for shell in ("sh", "bash", "dash", "zsh", "ksh", "fish") if shutil.which(shell)]
_SHOW = "import sys; sys.stdout.buffer.write(ascii(sys.argv[1:]).encode())"


def _run(command: Command, shell: str = "sh") -> subprocess.CompletedProcess[bytes]:
    # As sshd does: the user's shell, -c, one string.
    return subprocess.run([shell, "-c", command.line], capture_output=True)


@pytest.mark.parametrize("shell", _SHELLS)
@pytest.mark.parametrize("seed", range(10))
def test_any_argv_survives_any_login_shell(shell: str, seed: int) -> None:
    chance = random.Random(seed)
    letters = "abc $`\"'\\\n\t*?[]{}()<>|&;!#~%=-é\N{SNOWMAN}\x7f"
    argv = ["".join(chance.choices(letters, k=chance.randrange(20))) for _ in range(8)]
    done = _run(Command([sys.executable, "-c", _SHOW, *argv]), shell)
    assert done.stdout == ascii(argv).encode()


def test_the_marks_tell_the_pid_and_are_taken_out_again() -> None:
    command = Command(["sh", "-c", "echo $$; echo mine >&2"])
    done = _run(command)
    assert command.pids(done.stderr) == [done.stdout.decode().strip()]
    assert not command.missing(done.stderr)
    assert command.without_marks(done.stderr) == b"mine\n"
    assert command.without_marks(b"noise of .profile\n" + done.stderr) == (
        b"noise of .profile\nmine\n"
    )


def test_a_missing_program_is_marked_and_its_own_127_is_not() -> None:
    missing = Command(["no-such-program", "-x"])
    done = _run(missing)
    assert (done.returncode, missing.missing(done.stderr)) == (127, True)
    assert missing.without_marks(done.stderr) == b""
    own = Command(["sh", "-c", "exit 127"])
    assert not own.missing(_run(own).stderr)


def test_the_marks_of_one_command_are_not_those_of_another() -> None:
    one, other = Command(["true"]), Command(["true"])
    done = _run(one)
    assert other.pids(done.stderr) == []
    assert other.without_marks(done.stderr) == done.stderr


def test_bytes_that_are_no_text_pass() -> None:
    argv = [sys.executable, "-c", "import sys, os; os.write(1, os.fsencode(sys.argv[1]))"]
    assert _run(Command([*argv, os.fsdecode(b"\xff\x80x")])).stdout == b"\xff\x80x"


def test_kill_takes_a_process_and_its_group() -> None:
    process = subprocess.Popen(["sh", "-c", "sleep 300 & sleep 300"], start_new_session=True)
    subprocess.run([*KILL, str(process.pid), "999999999"], check=True)
    assert process.wait(timeout=5) == -9


@pytest.mark.parametrize("argv", [[], [""], "ls", ["a", "\0"], ["a", "x" * 131072]])
def test_what_cannot_be_run_is_told_before_it_is_sent(argv: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        Command(argv)
    assert caught.value.cure


def test_a_long_command_is_short_in_messages() -> None:
    assert str(Command(["a b", "c"])) == "'a b' c"
    assert len(str(Command(["x" * 1000]))) <= 120
