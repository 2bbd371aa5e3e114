"""The layers' contract holds in every checkout, even where the import linter is not installed."""

from __future__ import annotations

import ast
import importlib
import re
import sys
from pathlib import Path

import pytest

import llmsched_langgraph

ROOT = Path(llmsched_langgraph.__file__).parent
PURE = ("_application", "_jobs", "_belief", "_ledger", "_core", "sim")
NO_IO = {
    "asyncio",
    "threading",
    "time",
    "logging",
    "redis",
    "langgraph",
    "langchain_core",
    "openai",
    "random",
}
OWN_AND_STANDARD = {"llmsched_langgraph", "numpy", *sys.stdlib_module_names}
LANGGRAPH = {"langgraph", "langchain_core", "openai", "langchain", "langchain_openai"}


def imports(path: Path) -> set[str]:
    """Every module that the file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def modules() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports(path):
    """Pure layers do no IO, four know LangGraph, none touches its internals, and one module knows pgmpy."""
    layer, *below = path.relative_to(ROOT).parts
    layer = below[0] if layer == "lab" else layer
    top = {name.split(".")[0] for name in imports(path)}
    if layer in PURE:
        talks = below in (["redis", "client.py"], ["redis", "connection.py"])
        assert not top & NO_IO - ({"redis"} if talks else set())
    if layer == "_ledger":  # below the core, which it does not know
        rooms = {name.split(".")[1] for name in imports(path) if name.startswith("llmsched_langgraph.")}
        assert rooms <= {"_ledger", "_jobs", "_arguments", "_extras", "errors"}
        of_jobs = {name for name in imports(path) if name.startswith("llmsched_langgraph._jobs")}
        assert of_jobs <= {"llmsched_langgraph._jobs.stages", "llmsched_langgraph._jobs.calls"}
    if layer == "traces":  # files, but no time and no chance
        assert not top & NO_IO
        assert top <= OWN_AND_STANDARD
    if path.name != "pgmpy_exchange.py":  # takes seconds, and no run needs it
        assert not top & {"pgmpy", "pandas", "networkx"}
    if layer not in ("_adapter", "_compiler", "demo", "testbed", "testing.py"):
        assert not top & LANGGRAPH
    assert not [name for name in imports(path) if "._internal" in name]


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_are_rooms(path):
    """A module stays under 400 lines and says first what it knows."""
    text = path.read_text()
    assert text.count("\n") <= 400
    assert ast.get_docstring(ast.parse(text))


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.lua")), ids=lambda path: path.name)
def test_lua_files_stand_for_modules(path):
    """A file that repeats the rules of a module says so first, and has its name."""
    text = path.read_text()
    assert text.count("\n") <= 400
    named = re.search(r": `(\w+)\.py`\.", text.partition("\n\n")[0].replace("\n-- ", " "))
    alone = ("apply", "leases", "numbers", "settings", "state", "view")
    assert (path.stem in alone) == (named is None)
    assert named is None or (path.parent.parent / f"{named[1]}.py").exists()


PRIVATE = "llmsched_langgraph._"
TESTS = Path(__file__).resolve().parents[1]
PUBLIC = (
    "llmsched_langgraph",
    "llmsched_langgraph.observe",
    "llmsched_langgraph.policies",
    "llmsched_langgraph.reports",
    "llmsched_langgraph.traces",
)
BEHAVIOUR = ("applications", "graphs", "notebooks", "providers", "serve_sim", "servability")
"""Folders whose tests see the package as a user does."""


def test_tests_use_public_names():
    """Tests import public names from public modules; those of behaviour import nothing else."""
    public = {name: module for module in PUBLIC for name in importlib.import_module(module).__all__}
    wrong = []
    for path in sorted(TESTS.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith(PRIVATE):
                continue
            where = path.relative_to(TESTS)
            wrong += [
                f"{where}:{node.lineno}: import {alias.name} from {public[alias.name]}"
                for alias in node.names
                if alias.name in public
            ]
            if where.parts[0] in BEHAVIOUR:
                wrong.append(f"{where}:{node.lineno}: {node.module} is private")
    assert not wrong, "\n".join(wrong)
