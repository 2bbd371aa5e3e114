"""Forms beliefs in a background thread, one job at a time.

Does not use the beliefs, or order jobs. No grant waits for a belief.
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
    """Forms the beliefs that the machine requests, one job at a time.

    Several requests for a job that waits its turn are answered once, with the newest evidence.

    Args:
        tell: receives a job's number and its belief, in the background thread.
        background: creates a background thread from its name and its work.
    """

    def __init__(
        self,
        tell: Callable[[int, Belief], None],
        background: Callable[[str, Callable[[], bool]], Background] = Background,
    ) -> None:
        self._tell = tell
        # No lock: a finaliser may call `want` during another `want`.
        self._wanted: dict[int, BeliefWanted] = {}
        self._order: deque[int] = deque()
        self._background = background("llmsched-beliefs", self._form_one)

    def want(self, command: BeliefWanted) -> None:
        """Queue the request."""
        self._wanted[command.job] = command
        self._order.append(command.job)
        self._background.there_is_work()

    def forked(self) -> None:
        """Forget the requests in the child of a fork: they are for the parent's jobs."""
        self._wanted, self._order = {}, deque()

    def stop(self) -> None:
        """Stop forming beliefs."""
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
    """Return the belief, after computing every value that the policy reads during decisions."""
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
