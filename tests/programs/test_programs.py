"""Random programs end as they do bare, within their slots, and leave nothing behind.

`python -m tests.programs` draws more of them, and others.
"""

from __future__ import annotations

import pytest

from programs.features import SOUND
from programs.finding import played, reduced
from programs.grammar.drawing import draw

SEED = 1
PROGRAMS = 800
BATCH = 50

STAND_STILL_S = 30.0
"""How long nothing may happen, in seconds: durations are milliseconds, on a machine that may be busy."""


@pytest.mark.timeout(900)  # seconds, on a machine that does nothing else
@pytest.mark.parametrize("first", range(0, PROGRAMS, BATCH))
def test_same_as_bare(first: int) -> None:
    """Fifty programs, in a process of their own."""
    programs = (draw(SEED, number, SOUND) for number in range(first, first + BATCH))
    for drawn, verdict in played(programs, STAND_STILL_S):
        if verdict.kind:
            pytest.fail(reduced(drawn, verdict).told(), pytrace=False)
