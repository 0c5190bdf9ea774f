"""A request's arguments, taken out one by one with their types.

A wrong type, a missing or an unknown argument is the caller's fault and is
said so by name, instead of a traceback from somewhere inside an operation.
"""

from __future__ import annotations

from typing import Any

from .errors import usage

__all__ = ["Arguments"]

_REQUIRED = object()


class Arguments:
    """The arguments of one request for the operation `op`."""

    def __init__(self, op: str, values: dict[str, Any]) -> None:
        self.op = op
        self._values = dict(values)

    def _take(self, name: str, kinds: Any, wanted: str, default: Any) -> Any:
        if name not in self._values or (self._values[name] is None and default is not _REQUIRED):
            if default is _REQUIRED:
                raise usage(f"{self.op} needs {name}", cure=f"pass {name}: {wanted}")
            self._values.pop(name, None)
            return default
        value = self._values.pop(name)
        # bool is an int to isinstance, yet never a count or a path.
        if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
            raise usage(f"{self.op}: {name} is {value!r}", cure=f"pass {name}: {wanted}")
        return value

    def text(self, name: str, default: Any = _REQUIRED) -> Any:
        """A string."""
        return self._take(name, str, "a string", default)

    def integer(self, name: str, default: Any = _REQUIRED) -> Any:
        """A whole number."""
        return self._take(name, int, "a whole number", default)

    def seconds(self, name: str, default: Any = _REQUIRED) -> float:
        """A positive number of seconds."""
        value = float(self._take(name, (int, float), "seconds", default))
        if not 0 < value < 1e6:
            raise usage(f"{self.op}: {name} is {value!r}", cure="pass seconds, more than 0")
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        """True or false."""
        return bool(self._take(name, bool, "true or false", default))

    def texts(self, name: str, default: Any = _REQUIRED) -> list[str]:
        """A list of strings."""
        values = self._take(name, list, "a list of strings", default)
        if not all(isinstance(value, str) for value in values):
            raise usage(f"{self.op}: {name} is {values!r}", cure=f"pass {name}: a list of strings")
        return list(values)

    def name_or_number(self, name: str, default: Any = _REQUIRED) -> Any:
        """A string or a whole number, such as a user or its uid."""
        return self._take(name, (str, int), "a name or a whole number", default)

    def mapping(self, name: str) -> dict[str, Any]:
        """An object; empty when absent."""
        return dict(self._take(name, dict, "an object", {}))

    def done(self) -> None:
        """Raise for arguments nobody took."""
        if self._values:
            name = next(iter(self._values))
            raise usage(f"{self.op} has no argument {name}", cure="see the operation's docstring")
