"""Defines `llmsched report`: its options, and which files it writes.

Does not compute figures, or draw the page.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

from llmsched_langgraph.cli.complaints import SkippedLines, written
from llmsched_langgraph.errors import ConfigurationError

PAGE = Path("report.html")


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `llmsched report` to the parser."""
    parser = subparsers.add_parser(
        "report",
        help="draw recorded runs: where they waited, who paid, what was predicted",
        description=(
            "Writes one HTML page about recorded runs, which needs no network: JCT and waits by application, "
            "tenant and priority; each job with its calls over time, waiting and running; slots over time; "
            "predicted against real work. With --json or --perfetto, the page is written only with -o, too."
        ),
    )
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="files of `llmsched record`, or folders of them"
    )
    parser.add_argument("-o", "--out", type=Path, metavar="FILE", help=f"the page to write (default {PAGE})")
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object instead")
    parser.add_argument(
        "--perfetto", type=Path, metavar="FILE", help="write trace events for https://ui.perfetto.dev instead"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Read the recording, and write what the options ask for.

    Raises:
        ConfigurationError: a file cannot be written, or is one of the recordings.
        InvalidDataError: the jobs cannot be read, or have no times for `--perfetto`.
    """
    from llmsched_langgraph._views.report.notes import sentence
    from llmsched_langgraph.reports import report

    out: Path | None = options.out
    if out is None and not options.json and options.perfetto is None:
        out = PAGE
    for option, path in (("--out", out), ("--perfetto", options.perfetto)):
        if path is not None:
            _check(option, path, options.files)
    made = report(options.files, skipped=SkippedLines())
    if options.perfetto is not None:
        _write("--perfetto", options.perfetto, json.dumps(made.trace_events(), separators=(",", ":")))
    if out is not None:
        _write("--out", out, made.html())
    if options.json:
        print(json.dumps(made.figures, indent=2))
    else:
        files = " and ".join(str(path) for path in (out, options.perfetto) if path is not None)
        print(f"{sentence(made.figures)}; written to {files}")
    return 0


def _check(option: str, path: Path, recordings: Iterable[Path]) -> None:
    """Raise an error before the work if the file is a recording that it would replace, or a folder."""
    if path.is_dir():
        raise ConfigurationError(f"{option} {path}: is a folder; name a file in it, e.g. {path / PAGE.name}")
    if not path.exists():
        return
    from llmsched_langgraph.traces.files import SUFFIXES

    for given in recordings:
        read = (
            [file for file in given.rglob("*") if file.name.endswith(SUFFIXES)] if given.is_dir() else [given]
        )
        if any(file.exists() and file.samefile(path) for file in read):
            raise ConfigurationError(f"{option} {path}: is a recording; name another file")


def _write(option: str, path: Path, text: str) -> None:
    with written(option, path):
        path.write_text(text, encoding="utf-8")
