"""The tree of errors: whose fault, what, where, and what to do."""

from __future__ import annotations

import copy
import pickle

import pytest

from harness.errors import HarnessError, LabError, TargetError, UsageError

__all__: list[str] = []

_KINDS = [HarnessError, LabError, TargetError, UsageError]


@pytest.mark.parametrize("kind", _KINDS)
def test_a_message_has_all_its_parts(kind: type[HarnessError]) -> None:
    error = kind("it broke", where="box", cure="mend it")
    assert str(error) == "box: it broke\n  cure: mend it"
    assert (error.what, error.where, error.cure) == ("it broke", "box", "mend it")
    assert str(kind("it broke")) == "it broke"
    assert isinstance(error, HarnessError)


def test_faults_are_told_apart_by_exit_status() -> None:
    statuses = {kind: kind.exit_status for kind in (UsageError, LabError, TargetError)}
    assert len(set(statuses.values())) == 3
    assert not {0, 1} & set(statuses.values())


def test_a_fault_is_of_one_kind_only() -> None:
    for kind in (UsageError, LabError, TargetError):
        for other in (UsageError, LabError, TargetError):
            assert issubclass(kind, other) is (kind is other)


@pytest.mark.parametrize("kind", _KINDS)
def test_an_error_survives_copying_and_pickling(kind: type[HarnessError]) -> None:
    error = kind("it broke", where="box", cure="mend it")
    for other in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert type(other) is kind
        assert str(other) == str(error)
