"""Defines `llmsched inspect`: finds the named graph and shows its application.

Does not compile or draw the graph.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import inspect
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from llmsched_langgraph._application.application import Application
from llmsched_langgraph._application.serialization import application_to_json
from llmsched_langgraph._views.mermaid import mermaid
from llmsched_langgraph._views.outline import outline
from llmsched_langgraph._views.svg import svg
from llmsched_langgraph.errors import ConfigurationError

_WRITERS = {
    ".svg": svg,
    ".mmd": mermaid,
    ".json": lambda application: json.dumps(application_to_json(application), indent=2),
    ".txt": outline,
}


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `llmsched inspect` to the parser."""
    parser = subparsers.add_parser(
        "inspect",
        help="show what the scheduler sees in a graph: its stages, their kinds, loops and plans",
        description=(
            "Compiles a LangGraph graph into the DAG of regular, LLM and dynamic stages from which the "
            "scheduler predicts its runs. The graph is imported, never run."
        ),
    )
    parser.add_argument(
        "graph", metavar="MODULE:GRAPH", help="as in langgraph.json: package.module:name or file.py:name"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON object")
    form.add_argument("--mermaid", action="store_true", help="print a Mermaid flowchart")
    parser.add_argument(
        "--out", metavar="FILE", type=Path, help=f"write to a file instead: {', '.join(_WRITERS)}"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Show the application, or write it to a file.

    Raises:
        ConfigurationError: the graph does not exist, or the file cannot be written.
    """
    out: Path | None = options.out
    write = ".json" if options.json else ".mmd" if options.mermaid else ".txt"
    if out is not None:
        named = options.json or options.mermaid
        write = write if named else out.suffix.lower()
        if write not in _WRITERS or (named and out.suffix.lower() == ".svg"):
            raise ConfigurationError(f"--out {out}: name a file that ends in {', '.join(_WRITERS)}")
    application = _application(options.graph)
    text = _WRITERS[write](application)
    if out is None:
        print(text)
        return 0
    try:
        out.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"--out {out}: {error.strerror}") from None
    print(f"{application.name}: {len(application.stages)} stages written to {out}")
    return 0


def _application(named: str) -> Application:
    from llmsched_langgraph._compiler.compile import compile_graph

    where, separator, name = named.rpartition(":")
    if not separator or not where or not name:
        raise ConfigurationError(f"{named!r} names no graph: write package.module:name or file.py:name")
    graph: Any = _module(where)
    for part in name.split("."):
        try:
            graph = getattr(graph, part)
        except AttributeError:
            known = ", ".join(sorted(n for n in vars(graph) if not n.startswith("_")))
            raise ConfigurationError(f"{where} has no {name!r}; it has: {known}") from None
    if inspect.isroutine(graph):
        graph = _made_by(graph, named)
    if not hasattr(graph, "invoke") and callable(getattr(graph, "compile", None)):
        graph = graph.compile()  # a graph that is not compiled yet; langgraph.json accepts one, too
    return compile_graph(graph)


def _made_by(function: Any, named: str) -> object:
    if inspect.iscoroutinefunction(function):
        raise ConfigurationError(f"{named} is an async function: name the graph itself")
    try:
        made: object = function()
        return made
    except Exception as error:
        raise ConfigurationError(
            f"{named}() gave no graph: {type(error).__name__}: {error}; name the graph itself, or a "
            f"function without arguments that returns it"
        ) from None


def _module(where: str) -> ModuleType:
    path = Path(where)
    try:
        if where.endswith(".py"):
            if not path.is_file():
                raise ConfigurationError(f"there is no file {where}")
            spec = importlib.util.spec_from_file_location(path.stem, path)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.path.insert(0, str(path.resolve().parent))
            sys.modules[path.stem] = module
            spec.loader.exec_module(module)
            return module
        sys.path.insert(0, str(Path.cwd()))
        return importlib.import_module(where)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{where}.".startswith(f"{error.name}."):
            raise ConfigurationError(
                f"there is no module {where!r} here; name one that can be imported, or a file.py"
            ) from None
        raise ConfigurationError(f"{where} needs {error.name}, which is not installed") from None
    except ConfigurationError:
        raise
    except Exception as error:
        raise ConfigurationError(f"{where} cannot be imported: {type(error).__name__}: {error}") from error
