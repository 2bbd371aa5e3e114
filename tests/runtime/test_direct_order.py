"""Calls outside runs that take equally long are served in the order of their arrival."""

from __future__ import annotations

import threading

import pytest
from support.seam import until

from llmsched_langgraph import Backend


@pytest.mark.parametrize("policy", ["srtf", "llmsched"])
def test_a_call_that_came_before_anything_was_learned_is_not_overtaken(make_scheduler, policy):
    """What was learned meanwhile is known of it, too."""
    backends = [Backend("here", 1, models=["here"]), Backend("there", 1, models=["there"])]
    scheduler, served, waiting = make_scheduler(backends=backends, policy=policy), [], threading.Event()

    def call(name):
        with scheduler.slot("here"):
            served.append(name)

    holder = scheduler.slot("here")
    holder.acquire()
    threads = []
    for number, name in enumerate(("first", "second"), 1):
        threads.append(threading.Thread(target=call, args=(name,)))
        threads[-1].start()
        until(lambda number=number: scheduler.statistics().waiting == number)
        for _ in range(20):  # these teach how long a call takes
            with scheduler.slot("there"):
                waiting.wait(0.001)
        scheduler.learn()
    holder.release()
    for thread in threads:
        thread.join(20)
    assert served == ["first", "second"]
