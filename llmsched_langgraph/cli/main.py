"""Dispatches the commands of `llmsched` and prints their errors as one line, with exit status 2.

Does not implement the commands.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from llmsched_langgraph import __version__
from llmsched_langgraph.cli import (
    bench,
    demo,
    doctor,
    inspect,
    metrics,
    profile,
    record,
    replay,
    report,
    serve_sim,
    testbed,
)
from llmsched_langgraph.errors import LLMSchedError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 0 for success, 1 for a failed check, 2 for an error, 130 after Ctrl-C, 141 after a
        broken pipe; `record` returns the status of its program.
    """
    parser = argparse.ArgumentParser(
        prog="llmsched", description="LangGraph agents that take turns on a shared LLM backend."
    )
    parser.add_argument("--version", action="version", version=f"llmsched {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (
        demo,
        inspect,
        bench,
        record,
        replay,
        report,
        testbed,
        profile,
        serve_sim,
        doctor,
        metrics,
    ):
        command.register(subparsers)
    options = parser.parse_args(argv)
    try:
        status: int = options.run(options)
        if sys.stdout is not None:  # None if it was closed before the start
            sys.stdout.flush()
    except LLMSchedError as error:
        print(f"llmsched: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("llmsched: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader closed the pipe, as `head` does. The flush at exit must not fail on it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return status
