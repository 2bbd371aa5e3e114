"""Knows how beliefs are formed while the scheduler goes on: in the background, one job after the other.

Does not know what a belief is used for, nor how jobs are ordered. No grant ever waits for a belief.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from llmsched_langgraph._background import Background
from llmsched_langgraph._core.ordering import BeliefWanted
from llmsched_langgraph._core.view import Needs

if TYPE_CHECKING:
    from llmsched_langgraph._belief.model.belief import Belief


class BeliefFormer:
    """Forms the beliefs that the machine asks for, one job after the other.

    A job that is asked for again before its turn has come is looked at once, with its newest evidence.

    Args:
        tell: takes a job's arrival and its belief; called in the background.
        background: makes what works in the background.
    """

    def __init__(
        self,
        tell: Callable[[int, Belief], None],
        background: Callable[[str, Callable[[], bool]], Background] = Background,
    ) -> None:
        self._tell = tell
        # Without a lock: a finaliser may ask in the middle of an asking.
        self._wanted: dict[int, BeliefWanted] = {}
        self._order: deque[int] = deque()
        self._background = background("llmsched-beliefs", self._form_one)

    def want(self, command: BeliefWanted) -> None:
        """Form this belief when there is time."""
        self._wanted[command.job] = command
        self._order.append(command.job)
        self._background.there_is_work()

    def stop(self) -> None:
        """Form no more beliefs."""
        self._background.stop()

    def _form_one(self) -> bool:
        if not self._order:
            return False
        arrival = self._order.popleft()
        command = self._wanted.pop(arrival, None)
        if command is not None:
            self._tell(arrival, worked_out(command))
        return True


def worked_out(command: BeliefWanted) -> Belief:
    """The belief, with all that the policy will ask of it: a decision leaves nothing to work out."""
    belief = command.belief()
    _ = belief.mean, belief.after, belief.expected
    if Needs.INDEX in command.needs:
        _ = belief.index
    if Needs.MEDIAN in command.needs:
        _ = belief.quantiles
    if Needs.INTERVAL in command.needs:
        _ = belief.bounds
    if Needs.GAIN in command.needs:
        _ = belief.bounds
        for stage_occurrence in belief.expected:
            belief.uncertainty_reduction(stage_occurrence)
    return belief
