"""What the compiler reads off bytecode, on this Python and with instructions of others."""

from __future__ import annotations

import dis
from types import SimpleNamespace
from typing import Any

import pytest

from llmsched_langgraph._compiler import bytecode
from llmsched_langgraph._compiler.bytecode import Import, uses_of


def uses(text: str) -> Any:
    """What a function with these lines uses."""
    space: dict[str, Any] = {}
    exec("def function(a):\n" + "\n".join(f"    {line}" for line in text.split("; ")), space)
    return uses_of(space["function"].__code__)


@pytest.mark.parametrize(
    ("text", "direct"),
    [
        ("m.x.y(1)", {"m": {("x", "y")}}),
        ("m.x; m.y.z", {"m": {("x",), ("y", "z")}}),
        ("m.x = 1; del m.y", {"m": set()}),
        ("m.x; f(m)", {"m": None, "f": None}),
        ("m[0].x", {"m": None}),
        ("return lambda: m.x", {"m": {("x",)}}),
        ("return [m.x for _ in f.y]", {"m": {("x",)}, "f": {("y",)}}),
        ("b = m; b.x", {"m": None, "b": {("x",)}}),
        ("return m, a.x", {"m": None, "a": {("x",)}}),
    ],
)
def test_how_variables_are_used(text, direct):
    """By attributes only, which are told, or in another way."""
    found = uses(text).direct
    assert {name: None if found[name] is None else set(found[name]) for name in direct} == direct


def test_globals_and_attributes_are_not_mixed_up():
    """An attribute may have the name of a global."""
    found = uses("f(a.model)")
    assert found.globals == {"f"}
    assert found.attributes == {"model"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import m", Import("m", 0, (), "m")),
        ("import m.n", Import("m.n", 0, (), "m")),
        ("import m as k", Import("m", 0, (), "k")),
        ("import m.n as k", Import("m.n", 0, (("n", "k"),), "")),
        ("from m import x, y as z", Import("m", 0, (("x", "x"), ("y", "z")), "")),
        ("from .m import x", Import("m", 1, (("x", "x"),), "")),
        ("from .. import m", Import("", 2, (("m", "m"),), "")),
    ],
)
def test_imports(text, expected):
    """What is imported, from where, and under which name."""
    assert uses(text).imports == (expected,)


@pytest.mark.parametrize("text", ["getattr(a, 'llm')", "attrgetter('x.llm')(a)", "o.methodcaller('llm')"])
def test_attributes_by_string(text):
    """Strings may be names of attributes where they are used as such."""
    assert "llm" in uses(text).attributes
    assert "llm" not in uses("f(a, 'llm')").attributes


def steps(*pairs: tuple[str, Any]) -> list[Any]:
    return [SimpleNamespace(opname=opname, argval=argval) for opname, argval in pairs]


def test_instructions_that_load_two_variables(monkeypatch):
    """From Python 3.13 on: the first is passed on, an attribute is read of the second."""
    monkeypatch.setattr(
        dis,
        "get_instructions",
        lambda code: steps(
            ("LOAD_FAST_LOAD_FAST", ("a", "b")),
            ("LOAD_ATTR", "x"),
            ("STORE_FAST_LOAD_FAST", ("c", "d")),
            ("LOAD_ATTR", "y"),
            ("LOAD_FAST_BORROW", "e"),
            ("LOAD_ATTR", "z"),
            ("LOAD_SUPER_ATTR", "above"),
            ("LOAD_SMALL_INT", 1),
        ),
    )
    found = uses("return 31415")
    assert (found.direct["a"], found.direct["b"]) == (None, {("x",)})
    assert (found.direct["d"], found.direct["e"]) == ({("y",)}, {("z",)})
    assert found.attributes == {"x", "y", "z", "above"}


def test_unknown_bytecode(monkeypatch):
    """Where it cannot be read, every name counts as used in every way."""
    monkeypatch.setattr(bytecode._Scan, "read", lambda self, code: 1 / 0)
    found = uses("import m.n; return f(a.model, 27182)")
    assert {"f", "model"} <= found.globals
    assert {"f", "model"} <= found.attributes
    assert found.direct == {}
    assert Import("m.n", 0, (), "m") in found.imports
