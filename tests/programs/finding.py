"""Draws programs, plays them, and reduces one that fails to the smallest that fails in the same way.

Does not decide which ingredients are allowed.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from programs.batches import PATIENCE_S, Player
from programs.grammar.drawing import Drawn
from programs.grammar.graphs import Sketch, Written, written
from programs.grammar.shrinking import shrink
from programs.judging import Verdict

TRIES = 4
"""How many times a simpler program is played before it counts as one that does not fail."""

SHRINKING_S = 60.0
"""How long a program is simplified, in seconds."""

_PATIENCE_S = 5.0  # while simplifying a program that is known to stand still


@dataclass(frozen=True)
class Failure:
    """A program that fails.

    Attributes:
        drawn: as it was drawn.
        verdict: what was wrong with it then.
        program: the smallest one that was found to fail in the same way.
        sketch: its tree.
        smallest: what is wrong with that one; None if no program failed a second time.
        tried: how many simpler ones were tried.
    """

    drawn: Drawn
    verdict: Verdict
    program: Written
    sketch: Sketch
    smallest: Verdict | None
    tried: int

    def told(self) -> str:
        """What failed, and the program, which runs as it stands: the text is Python source."""
        verdict = self.smallest or self.verdict
        again = f"reduced in {self.tried} tries" if self.smallest else "failed once; it did not fail again"
        ingredients = ", ".join(sorted(self.program.features))
        text = verdict.text.strip().replace("\n", "\n# ")
        return (
            f"# Program {self.drawn.name}: {verdict.kind}. {again}.\n# It has: {ingredients}.\n"
            f"# {text}\n#\n# Play it with: python -m tests.programs FILE\n\n{self.program.source}"
        )


def played(programs: Iterable[Drawn], patience_s: float = PATIENCE_S) -> Iterator[tuple[Drawn, Verdict]]:
    """Play programs, one after the other."""
    with Player(patience_s) as player:
        for drawn in programs:
            yield drawn, player.play(drawn.name, drawn.written.source)


def reduced(drawn: Drawn, verdict: Verdict, *, seconds: float = SHRINKING_S, tries: int = TRIES) -> Failure:
    """Find the smallest program that fails in the same way."""
    last: Verdict | None = None
    until = time.monotonic() + seconds
    with Player(_PATIENCE_S) as player:

        def fails(program: Written) -> bool:
            nonlocal last
            for _ in range(tries):
                now = player.play(drawn.name, program.source)
                if now.kind == verdict.kind:
                    last = now
                    return True
            return False

        if not fails(drawn.written):
            return Failure(drawn, verdict, drawn.written, drawn.sketch, None, 0)
        sketch, tried = shrink(drawn.sketch, fails, until)
    return Failure(drawn, verdict, written(sketch), sketch, last, tried)
