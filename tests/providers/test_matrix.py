"""A slot is held exactly while a request is in flight, whatever sends it and however it ends.

`python -m tests.providers` plays the whole matrix. Here: one package for each HTTP library, and for each way
of calling and each fault one number of slots.
"""

from __future__ import annotations

import pytest

from .callers import Bench
from .matrix import Cell, cells
from .scene import play
from .table import PROVIDERS, SMALL


def _in_the_small_set(cell: Cell) -> bool:
    slots = 2 if cell.way.calls > 1 else 1
    return cell.provider.installed and cell.slots == slots and cell.fault not in ("503", "529")


@pytest.mark.parametrize("cell", [cell for cell in cells(SMALL) if _in_the_small_set(cell)], ids=str)
def test_a_slot_is_held_while_a_request_is_in_flight(bench: Bench, cell: Cell) -> None:
    report = play(bench, cell)
    assert report.wrong == [], report.story


def test_the_small_set_has_every_http_library() -> None:
    libraries = {library for p in PROVIDERS for library in (p.sync, p.asynchronous)}
    small = {library for p in SMALL for library in (p.sync, p.asynchronous)}
    assert small == libraries - {"httpx over aiohttp"}  # httpx's own frames, and aiohttp's below them
