"""Shows progress on standard error, with one bar for each pass.

Does not run the passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


@contextmanager
def progress(runs: int, others: Mapping[str, int] | None = None) -> Iterator[Callable[[str], None]]:
    """Show progress while the block runs; yield a function to call with a pass's name after each run.

    Args:
        runs: number of runs in a pass.
        others: number of runs of the passes that differ from `runs`, by name.
    """
    totals = dict(others or {})
    console = Console(stderr=True)
    columns = (TextColumn("{task.description:>10}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    shown = Progress(*columns, console=console, disable=not console.is_terminal, redirect_stdout=False)
    with shown as bars:
        tasks: dict[str, object] = {}

        def on_finish(name: str) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=totals.get(name, runs))
            bars.advance(tasks[name])  # type: ignore[arg-type]

        yield on_finish
