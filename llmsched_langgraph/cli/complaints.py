"""Reports errors of the commands: a missing matplotlib, an unwritable path, skipped lines of a file.

Does not define commands or options.
"""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmsched_langgraph._extras import needs_extra
from llmsched_langgraph.errors import ConfigurationError

if TYPE_CHECKING:
    from llmsched_langgraph.traces import Skipped


class SkippedLines:
    """Prints the skipped lines of each file to standard error, once, and keeps them for `--json`."""

    def __init__(self) -> None:
        self._files: dict[Path, Skipped] = {}

    def __call__(self, skipped: Skipped) -> None:
        """Print a report of skipped lines, unless the file was read before."""
        if skipped.path not in self._files:
            self._files[skipped.path] = skipped
            print(f"llmsched: {skipped}", file=sys.stderr)

    def as_json(self) -> list[dict[str, Any]]:
        """Return an object for each file: `file`, `lines`, `first_line`, `reason`."""
        return [one.to_json() for one in self._files.values()]


@contextmanager
def needs_matplotlib(what: str) -> Generator[None]:
    """Wrap an import that needs matplotlib; if matplotlib is missing, the error names the extra."""
    try:
        yield
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        raise needs_extra(what, "matplotlib", "plots") from None


@contextmanager
def written(what: str, path: Path) -> Generator[None]:
    """Turn an `OSError` raised in the block into a `ConfigurationError` that names option and path."""
    try:
        yield
    except OSError as error:
        raise ConfigurationError(f"{what} {path}: {error.strerror or error}") from None
