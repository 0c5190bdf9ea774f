"""A DRM node of an unprivileged client, opened."""

from __future__ import annotations

import os

from ..errors import target

__all__ = ["open_node"]


def open_node(node: str) -> int:
    """Its file descriptor.  Raises AgentError (target): not there, or not for us."""
    try:
        return os.open(node, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise target(
            f"cannot be opened: {error.strerror}",
            node,
            "check that the driver is bound and the node's group may read and write it",
            error.errno,
        ) from error
