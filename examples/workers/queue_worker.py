"""A Celery worker with a pool of processes, whose model calls share the slots of one backend.

celery --app queue_worker worker --pool prefork --concurrency 4

Celery imports this module and then forks its pool: each child registers at the server of the slots when it
makes its first call, and its slots come back within 5 s if it is killed.
"""

from __future__ import annotations

import os

from answers import graph

try:
    from celery import Celery
except ImportError:  # `answer` works without
    Celery = None


def answer(question: str) -> str:
    """Answer the question. From elsewhere: `queue_worker.answer_task.delay("How long is the Rhine?")`."""
    state = graph.invoke({"question": question})
    return str(state["answer"])


if Celery is not None:
    place = os.environ.get("CELERY_URL", "redis://127.0.0.1:6379/1")
    app = Celery("answers", broker=place, backend=place)
    answer_task = app.task(name="answer", acks_late=True)(answer)
