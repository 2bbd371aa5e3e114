"""Tells where all threads and tasks of this process stand, as short as it can be read.

Does not list frames of the standard library and of what plays programs.
"""

from __future__ import annotations

import asyncio
import gc
import linecache
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from llmsched_langgraph._runtime.cycles.stdlib import current_frames

_LIBRARY = str(Path(asyncio.__file__).parent.parent)
_PACKAGES = "site-packages/"
_HARNESS = ("programs/worker.py", "programs/judging.py", "stage/runs.py", "<frozen runpy>")


def stacks() -> str:
    """The stacks of all threads but this one, and of all tasks; the innermost first, equal ones once."""
    threads = [
        ("thread", list(_told(_frames_of_thread(frame))))
        for ident, frame in current_frames().items()
        if ident != threading.get_ident()
    ]
    tasks = [
        ("task", list(_told(_frames_of_task(each))))
        for each in gc.get_objects()
        if isinstance(each, asyncio.Task) and not each.done()
    ]
    counted = Counter("\n".join([f"{kind}:", *lines]) for kind, lines in threads + tasks if lines)
    return "".join(f"{number} x {stack}\n" for stack, number in counted.items())


def _frames_of_thread(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _frames_of_task(task: asyncio.Task[Any]) -> list[FrameType]:
    """The frames of the coroutines that await each other."""
    awaited: Any = task.get_coro()
    frames: list[FrameType] = []
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "ag_frame", None)
        if frame is not None:
            frames.append(frame)
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "ag_await", None)
    return frames[::-1]


def _told(frames: Iterable[FrameType]) -> Iterator[str]:
    for frame in frames:
        code = frame.f_code
        if code.co_filename.startswith(_LIBRARY) and _PACKAGES not in code.co_filename:
            continue
        if code.co_filename.endswith(_HARNESS):
            continue
        file = code.co_filename.rpartition(_PACKAGES)[2]
        line = linecache.getline(code.co_filename, frame.f_lineno).strip()
        yield f"  {file}:{frame.f_lineno} {code.co_name}: {line}"
