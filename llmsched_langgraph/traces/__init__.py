"""Recorded jobs: the record, its file format, and loaders for other formats.

Does not schedule jobs, and uses no clock. The main functions are `read_jobs` and `write_jobs`.
"""

from llmsched_langgraph._jobs.ended import Derived, EndedCall, EndedJob, EndedStage, EndedStageRun, by_app
from llmsched_langgraph.traces.arrivals import read_gaps
from llmsched_langgraph.traces.files import Skipped, SkippedLinesWarning, write_jobs
from llmsched_langgraph.traces.reading import Paths, done_jobs, read_jobs
from llmsched_langgraph.traces.speed import MEASURED_SPEED, TokenSpeed, fill_seconds

__all__ = [
    "MEASURED_SPEED",
    "Derived",
    "EndedCall",
    "EndedJob",
    "EndedStage",
    "EndedStageRun",
    "Paths",
    "Skipped",
    "SkippedLinesWarning",
    "TokenSpeed",
    "by_app",
    "done_jobs",
    "fill_seconds",
    "read_gaps",
    "read_jobs",
    "write_jobs",
]
