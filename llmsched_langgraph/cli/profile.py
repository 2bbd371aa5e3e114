"""Knows that `llmsched profile` has actions: to measure predictions, to fit profiles, and on files of them.

Does not know what any of them does.
"""

from __future__ import annotations

import argparse

from llmsched_langgraph.cli import profile_files, profile_fit, profile_measure


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "profile",
        help="what earlier runs teach, and how well it predicts others",
        description="What is learned of applications from their runs.",
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    profile_measure.register(actions)
    profile_fit.register(actions)
    profile_files.register(actions)
