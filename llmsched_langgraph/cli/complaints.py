"""Knows how commands tell what they cannot do on this machine: what is not installed, what cannot be written.

Does not know the commands.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from llmsched_langgraph.errors import ConfigurationError


@contextmanager
def needs_matplotlib(what: str) -> Generator[None]:
    """Around the import of a view that draws with it: if it is missing, the error says how to get it."""
    try:
        yield
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        raise ConfigurationError(
            f"{what} needs matplotlib: pip install 'llmsched-langgraph[plots]'"
        ) from None


@contextmanager
def written(what: str, path: Path) -> Generator[None]:
    """Around whatever writes there: what cannot be written is an error of the option that names it."""
    try:
        yield
    except OSError as error:
        raise ConfigurationError(f"{what} {path}: {error.strerror or error}") from None
