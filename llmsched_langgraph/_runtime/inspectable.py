"""Shows users what a scheduler does: statistics, explanations of runs, the story.

Does not change what it does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmsched_langgraph._observe.explanation import Explanation
from llmsched_langgraph._observe.subscriptions import See, Subscription
from llmsched_langgraph._runtime.context import current_run
from llmsched_langgraph._runtime.given import check_function
from llmsched_langgraph._runtime.statistics import BackendStatistics, Statistics
from llmsched_langgraph.errors import UnknownRunError

if TYPE_CHECKING:
    from llmsched_langgraph._runtime.door import Door
    from llmsched_langgraph._runtime.driver import Driver
    from llmsched_langgraph._runtime.unmarked import Unmarked


class Inspectable:
    """The part of a scheduler that its users watch."""

    _driver: Driver
    _door: Door
    _unmarked: Unmarked

    def statistics(self) -> Statistics:
        """Return the current state and the totals so far."""
        driver = self._driver
        driver.look()
        totals, backends, now = driver.totals, driver.backends, driver.clock()
        return Statistics(
            policy=driver.policy.name,
            backends=tuple(
                BackendStatistics(
                    name,
                    own.slots,
                    own.holding,
                    own.waiting,
                    paused_s=max(own.pause.opens_s - now, 0.0),
                    paused_total_s=own.pause.closed_s - max(own.pause.opens_s - now, 0.0),
                )
                for name, own in backends.items()
            ),
            jobs_running=driver.jobs,
            jobs_ended=driver.jobs_ended,
            granted=sum(own.granted for own in backends.values()),
            released=sum(own.released for own in backends.values()),
            peak=totals.peak,
            over_commitments=totals.over_commitments,
            waited_s=totals.waited_s,
            prompt_tokens=totals.prompt_tokens,
            output_tokens=totals.output_tokens,
            unmarked_calls=self._unmarked.calls,
            jobs_deferred=self._door.waiting,
            jobs_refused=self._door.refused,
            waits=driver.waits,
        )

    def explain(self, run: str | int | None = None) -> Explanation:
        """Say what a run does, why it waits, what is ahead of it, and when it will end.

        Args:
            run: LangGraph's run id (`config["run_id"]`), a thread id, the number of a run in the story, or
                its id in a recording; of several runs, the latest. None for the run of the calling code.

        Returns:
            The explanation: print it, or read its attributes. A run that has ended is known until 200 others
            have, if it made a call.

        Raises:
            UnknownRunError: the scheduler knows no such run.
        """
        if run is None:
            own = current_run()
            if own is None or own.driver is not self._driver:
                raise UnknownRunError(
                    "explain() without an argument explains the run of the calling code, which is in none of "
                    "this scheduler; give it a run id or a thread id"
                )
            found = self._driver.explain_job(own.job)
        else:
            if not isinstance(run, int):
                run = str(run)  # LangGraph accepts a UUID
            self._driver.look()
            found = self._driver.explain(run)
        if found is None:
            raise UnknownRunError(self._unknown(run))
        return found

    def _unknown(self, run: str | int | None) -> str:
        waiting = self._door.waiting
        door = f"; {waiting} runs wait to begin, and are known when they do" if waiting else ""
        return (
            f"the scheduler knows no run {run!r}: give the run_id or the thread_id of its configuration. "
            f"Runs without a call, and those that ended before the last 200, are not kept{door}"
        )

    def subscribe(self, observer: See) -> Subscription:
        """Call `observer` with each `Entry` of the scheduler's story from now on, in order.

        Entries are events and decisions, with the reason of each grant. The observer runs outside the
        scheduler's lock, in the thread or event loop that caused the decision: it must return quickly. If it
        raises, the first error is logged, and scheduling continues.

        Returns:
            The subscription: `close` it, or use it as a context manager.

        Raises:
            ConfigurationError: `observer` cannot be called.
        """
        check_function(observer, "observer", "one argument, an Entry")
        return self._driver.subscribe(observer)

    def check(self) -> None:
        """Raise AssertionError unless every slot and every waiting call is accounted for. For tests."""
        self._driver.check()

    def __repr__(self) -> str:
        now = self.statistics()
        pools = " | ".join(f"{b.name} {b.holding}/{b.slots} +{b.waiting}" for b in now.backends)
        closed = " | closed" if self._driver.closed else ""
        return f"<Scheduler {now.policy} | {now.jobs_running} jobs | {pools}{closed}>"
