"""Breaks decisions off: an exception that is no `Exception`, at a line of the core that is counted out."""

from __future__ import annotations

import sys
from pathlib import Path

from llmsched_langgraph import _core, _ledger
from llmsched_langgraph._jobs import calls as progress
from llmsched_langgraph._jobs import stages as position

_ROOMS = [Path(own.__file__).parent for own in (_core, _ledger)]

FILES = frozenset(
    [
        str(path)
        for room in _ROOMS
        for path in room.glob("*.py")
        if path.stem not in ("policies", "fair_clock")
    ]
    + [position.__file__, progress.__file__]
)
"""All that a decision runs, but for policies: a virtual clock may be left a step behind."""


class Broken(BaseException):
    """What a signal raises in the main thread."""


class Breaking:
    """Raises `Broken` before the n-th line that is run in those files from now on; `left` if it did not."""

    def __init__(self, line, files=FILES):
        self.left = line
        self.where = None
        self._files = files

    def __enter__(self):
        self._before = sys.gettrace()
        sys.settrace(self._enter)
        return self

    def __exit__(self, *_):
        sys.settrace(self._before)

    def _enter(self, frame, event, arg):
        return self._line if frame.f_code.co_filename in self._files else None

    def _line(self, frame, event, arg):
        if event == "line":
            self.left -= 1
            if self.left == 0:
                self.where = f"{frame.f_code.co_qualname}:{frame.f_lineno}"
                sys.settrace(self._before)
                raise Broken(self.where)
        return self._line
