"""Ray tasks, in processes that Ray starts, whose model calls share the slots of one backend.

python ray_tasks.py 20
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter

import ray


@ray.remote
def answer(question: str) -> tuple[str, int]:
    """Answer the question; return the answer, and the process that found it."""
    from answers import (
        graph,
    )  # here, not above: each of Ray's processes makes the graph and its scheduler once

    state = graph.invoke({"question": question})
    return str(state["answer"]), os.getpid()


def main(questions: int, processes: int = 4) -> None:
    """Ask all questions at once, of several processes; print how many each process answered."""
    # Ray's processes on this machine have the environment of this one; on a cluster, give it to them by
    # `runtime_env={"working_dir": ".", "env_vars": {"LLMSCHED_URL": ..., "LLMSCHED_SLOTS": "2", ...}}`.
    ray.init(num_cpus=processes, include_dashboard=False, log_to_driver=False)
    begun_s = time.monotonic()
    found = ray.get([answer.remote(f"How long is river {n}?") for n in range(questions)])
    by = Counter(process for _, process in found)
    print(f"{len(found)} answers in {time.monotonic() - begun_s:.1f} s, by process: {sorted(by.values())}")
    ray.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
