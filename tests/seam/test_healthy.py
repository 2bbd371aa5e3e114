"""Random programs in which every wait ends by itself: no call goes above the slots, however slow all is."""

from __future__ import annotations

import pytest
from support.cycles import ends
from support.healthy import KINDS, Program

SEEDS = range(14, 24)  # the first ten in a row in which everything occurs


@pytest.mark.parametrize("seed", SEEDS)
def test_no_call_goes_ahead(seed):
    """Neither slow requests nor slow readers, neither busy nor sleeping loops are taken for endless waits."""
    program = Program(seed)
    if program.asynchronous and program.uvloop:
        pytest.importorskip("uvloop", reason="uvloop is not installed")
    ends(program.run, *program.schedulers)
    program.check()


def test_the_seeds_have_some_of_everything():
    """Each kind of node is in one of the programs, and so are threads, loops and two loops at once."""
    programs = [Program(seed) for seed in SEEDS]
    assert {kind for program in programs for kind in program.kinds} == set(KINDS)
    assert {program.asynchronous for program in programs} == {True, False}
    assert any(program.asynchronous and program.two_loops and program.runs > 1 for program in programs)
