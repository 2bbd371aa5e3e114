"""Reports of recorded runs, for programs and notebooks; `llmsched report` is the same on the command line.

from llmsched_langgraph.reports import report

night = report("night.jsonl")  # in a notebook, it draws itself
print(night.figures["waiting_share"])
Path("night.html").write_text(night.html())
"""

from __future__ import annotations

from llmsched_langgraph._views.report.report import Report, report

__all__ = ["Report", "report"]
