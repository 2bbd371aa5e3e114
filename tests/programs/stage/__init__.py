"""What a written program imports: models, helpers, and how its graph is run."""

from __future__ import annotations

from programs.stage.helpers import (
    RETRY,
    State,
    alone,
    apumped,
    in_threads,
    on_loop_threads,
    pumped,
    told,
)
from programs.stage.models import AsyncOnly, Delegate, Plain, Router, Streaming, SyncOnly, Vote
from programs.stage.runs import Client, Program, Run
from programs.stage.stage import Broken, Stage

__all__ = [
    "RETRY",
    "AsyncOnly",
    "Broken",
    "Client",
    "Delegate",
    "Plain",
    "Program",
    "Router",
    "Run",
    "Stage",
    "State",
    "Streaming",
    "SyncOnly",
    "Vote",
    "alone",
    "apumped",
    "in_threads",
    "on_loop_threads",
    "pumped",
    "told",
]
