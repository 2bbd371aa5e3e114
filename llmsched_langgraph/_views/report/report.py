"""The report of a recording: its figures, its page, and its trace events.

Does not compute them, and prints nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

from llmsched_langgraph._version import __version__
from llmsched_langgraph._views.report.data import page_data
from llmsched_langgraph._views.report.figures import figures
from llmsched_langgraph._views.report.notes import notes, sentence
from llmsched_langgraph._views.report.page import page_html
from llmsched_langgraph._views.report.perfetto import trace_events
from llmsched_langgraph.traces import EndedJob, Paths, Skipped, read_jobs

NOTEBOOK_HEIGHT = 720
"""Height of the page in a notebook, in pixels."""


class Report:
    """What a recording tells of its jobs. In a notebook, it draws itself.

    Args:
        jobs: the recorded jobs.
        name: what the page is called, such as the names of the files.
        skipped: what could not be read of the files.
    """

    def __init__(self, jobs: Sequence[EndedJob], name: str = "", skipped: Sequence[Skipped] = ()) -> None:
        self.jobs = tuple(jobs)
        self.name = name
        self.skipped = tuple(skipped)

    def __repr__(self) -> str:
        return f"<Report of {self.name or 'a recording'}: {sentence(self.figures)}>"

    @cached_property
    def figures(self) -> dict[str, Any]:
        """The figures of all jobs as JSON data: what `llmsched report --json` prints. Seconds, slot-seconds.

        JCT, waits and slowdown; `paid`, the same by application, tenant and priority; `backends`, the busiest
        first; `grants` by reason; `prediction`, how good the predictions at arrival were. None stands for
        what was not recorded.
        """
        return {"name": self.name, "skipped": [one.to_json() for one in self.skipped], **figures(self.jobs)}

    def html(self) -> str:
        """Return the page: one HTML file in ASCII, which loads nothing."""
        about = {"version": __version__, "notes": notes(self.figures, self.skipped)}
        data = {"about": about, "figures": self.figures, **page_data(self.jobs)}
        return page_html(data, f"{self.name} - llmsched report" if self.name else "llmsched report")

    def trace_events(self) -> dict[str, Any]:
        """Return the trace events of the jobs as JSON data, which https://ui.perfetto.dev shows.

        Raises:
            InvalidDataError: no job has an arrival and an end.
        """
        return trace_events(self.jobs)

    def _repr_html_(self) -> str:
        # A frame: neither the notebook's style nor its scripts reach the page, nor the page's theirs.
        return (
            f'<iframe title="llmsched report" srcdoc="{escape(self.html())}" sandbox="allow-scripts" '
            f'style="width: 100%; height: {NOTEBOOK_HEIGHT}px; border: 0"></iframe>'
        )


def report(paths: Paths, *, skipped: Callable[[Skipped], object] | None = None) -> Report:
    """Return the report of recorded jobs: of a file, of the files below a folder, or of several of either.

    The files are those of `Scheduler(record=...)` and `llmsched record`, or of another format that
    `llmsched_langgraph.traces.read_jobs` reads; what a format does not record, the report leaves out, and
    says so.

    Args:
        paths: files and folders.
        skipped: also receives what could not be read of a file; the report tells it in any case.

    Raises:
        InvalidDataError: as `read_jobs`.
    """
    listed = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    found: list[Skipped] = []

    def note(one: Skipped) -> None:
        found.append(one)
        if skipped is not None:
            skipped(one)

    jobs = list(read_jobs(listed, skipped=note))
    return Report(jobs, ", ".join(Path(path).name for path in listed), found)
