"""Defines `llmsched profile` and registers its actions.

Does not implement the actions.
"""

from __future__ import annotations

import argparse

from llmsched_langgraph.cli import profile_files, profile_fit, profile_measure


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `llmsched profile` to the parser."""
    parser = subparsers.add_parser(
        "profile",
        help="fit, show and measure profiles: what the scheduler learns from earlier runs",
        description="Profiles hold what the scheduler learns of applications from their runs.",
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    profile_measure.register(actions)
    profile_fit.register(actions)
    profile_files.register(actions)
