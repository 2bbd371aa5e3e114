"""Knows how correlations between stages are learned in a process of their own.

Does not know when, or what becomes of the models. The process is this same Python with this same package;
what goes through the pipes comes from ourselves, and is pickled.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

from llmsched_langgraph.errors import LLMSchedError

if TYPE_CHECKING:
    from llmsched_langgraph.belief.model import ApplicationModel
    from llmsched_langgraph.dag.application import Application
    from llmsched_langgraph.jobs.observed import ObservedJob

Lessons = Sequence[tuple["Application", Sequence["ObservedJob"]]]

LIMIT_S = 300.0
"""Seconds after which the helper is given up."""

LOOK_S = 0.25
"""Seconds from one look whether it is needed still to the next."""

NICENESS = 10
"""How far the helper stands back behind the program that it helps."""

_one_at_a_time = threading.Lock()


def _forked() -> None:
    global _one_at_a_time
    _one_at_a_time = threading.Lock()  # whoever held the other is not there in the child


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def learned_elsewhere(
    lessons: Lessons, given_up: Callable[[], bool] = lambda: False
) -> list[ApplicationModel] | None:
    """The models of these applications, learned in a helper process, or here if there cannot be one.

    However many schedulers a process has, it has one helper at a time.

    Args:
        lessons: the applications, and what their jobs did.
        given_up: whether nobody needs the models any more; then the helper is ended, and the result is None.

    Raises:
        LLMSchedError: the helper failed; the message ends with what it said last.
    """
    turn = _one_at_a_time
    while not turn.acquire(timeout=LOOK_S):
        if given_up():
            return None
    try:
        return _models(lessons, given_up)
    finally:
        turn.release()


def _models(lessons: Lessons, given_up: Callable[[], bool]) -> list[ApplicationModel] | None:
    command = [sys.executable, "-c", f"import {__name__} as helper; helper.main()"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    try:
        if not sys.executable:
            raise OSError("this Python does not know its own executable")
        # In a file, for `communicate` does not go on writing to a pipe where a timeout interrupted it.
        with TemporaryFile() as question:
            pickle.dump(lessons, question)
            question.seek(0)
            pipe = subprocess.PIPE
            helper = subprocess.Popen(command, stdin=question, stdout=pipe, stderr=pipe, env=environment)
    except OSError:
        return _learned(lessons)
    with helper:
        try:
            out, err = _answer(helper, given_up)
        except subprocess.TimeoutExpired:
            if given_up():
                return None
            raise LLMSchedError(f"the helper process took more than {LIMIT_S:g} s") from None
        finally:
            helper.kill()  # which does nothing to one that has ended
    if helper.returncode:
        said = err.decode(errors="replace").strip().splitlines() or ["it said nothing"]
        raise LLMSchedError(f"the helper process ended with {helper.returncode}: {said[-1]}")
    models: list[ApplicationModel] = pickle.loads(out)  # noqa: S301 (our own)
    return models


def _answer(helper: subprocess.Popen[bytes], given_up: Callable[[], bool]) -> tuple[bytes, bytes]:
    """What the helper writes, until it ends, takes too long, or nobody needs it any more."""
    for _ in range(round(LIMIT_S / LOOK_S)):
        try:
            return helper.communicate(timeout=LOOK_S)
        except subprocess.TimeoutExpired:
            if given_up():
                raise
    raise subprocess.TimeoutExpired(helper.args, LIMIT_S)


def main() -> None:
    """Read lessons from the standard input, and write the models to the standard output."""
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    # Whatever a library prints must not get among the models.
    out, sys.stdout = sys.stdout.buffer, sys.stderr
    out.write(pickle.dumps(_learned(pickle.load(sys.stdin.buffer))))  # noqa: S301 (our own)
    out.flush()


def _learned(lessons: Lessons) -> list[ApplicationModel]:
    from llmsched_langgraph.belief.learning import learn

    return [learn(application, outcomes) for application, outcomes in lessons]
