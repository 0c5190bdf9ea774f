"""i915's jobs that are slow but end: rectangles that are filled, one after the other."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import NamedTuple

from ..errors import usage
from .i915_batches import FILLED, SIZE, fills
from .i915_device import Buffer, Engine
from .i915_job import Context, Submitted
from .i915_recipes import draws
from .slow import pieces

__all__ = ["Slow"]

# 120 KiB of commands: with an old chip's memory ten seconds of work, and more.
_MOST = 5000
_TRIAL_NS = 10_000_000_000


class Slow(NamedTuple):
    """An engine, as it is used by one context."""

    context: Context
    engine: Engine

    def submit(self, seconds: float) -> tuple[Submitted, int]:
        """A job that lasts about `seconds`, or as long as one can if that is less; and what was
        expected of it, in ns.  Raises AgentError."""
        if not draws(self.context.device.generation, self.engine.kind):
            raise usage(
                f"{self.engine.name} has no 2D commands to be kept busy with",
                self.context.device.node,
                "choose an engine that `engines` calls slow",
            )

        def trial(count: int) -> dict[str, object]:
            job, used = self._job(count)
            job.fence.wait(_TRIAL_NS)
            told = job.outcome(0)
            job.fence.close()
            if told["signaled"]:
                for buffer in used:
                    self.context.device.free(buffer)
            return told

        count, expected = pieces(trial, seconds, _MOST)
        return self._job(count)[0], expected

    def _job(self, count: int) -> tuple[Submitted, list[Buffer]]:
        """A job of `count` rectangles, and its buffers."""
        device = self.context.device
        build = partial(fills, value=1, count=count)
        with contextlib.ExitStack() as undo:
            filled = device.buffer(FILLED)
            undo.callback(device.free, filled)
            commands = device.buffer(-(-len(build(0).data) // SIZE) * SIZE)
            undo.callback(device.free, commands)
            command = device.command(self.engine, commands, build, target=filled)
            submitted = self.context.submit(command, None)
            undo.pop_all()
        return submitted, [filled, commands]
