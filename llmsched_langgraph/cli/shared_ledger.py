"""Adds the options of commands that read a ledger which several processes share.

Does not read it.
"""

from __future__ import annotations

import argparse


def add_ledger(parser: argparse.ArgumentParser) -> None:
    """Add `--url` and `--name`."""
    parser.add_argument(
        "--url",
        help="the server, such as redis://host:6379/0; prefer the environment variable LLMSCHED_URL (the "
        "default) for one with a password: other users of a machine can see arguments",
    )
    parser.add_argument(
        "--name", default="default", help="that of Scheduler(name=...) (default: %(default)s)"
    )
