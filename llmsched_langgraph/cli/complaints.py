"""Turns a missing matplotlib or an unwritable path into an error of the option that needs it.

Does not define commands or options.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from llmsched_langgraph.errors import ConfigurationError


@contextmanager
def needs_matplotlib(what: str) -> Generator[None]:
    """Wrap an import that needs matplotlib; if matplotlib is missing, the error names the extra."""
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
    """Turn an `OSError` raised in the block into a `ConfigurationError` that names option and path."""
    try:
        yield
    except OSError as error:
        raise ConfigurationError(f"{what} {path}: {error.strerror or error}") from None
