"""Joins the Lua files of this package into the scripts that the server runs.

Does not talk to a server. Each file fills the table of its name: `pauses.lua` defines `pauses.ready_s`. A
function stands for the Python function of the same name, in the module of the same name.
"""

from __future__ import annotations

from functools import cache
from hashlib import sha1
from importlib.resources import files

MODULES = (
    "numbers",
    "state",
    "pauses",
    "tenants",
    "lines",
    "cells",
    "allowances",
    "ceilings",
    "turns",
    "overdue",
    "queues",
    "reserves",
    "rates",
    "levels",
    "auto",
    "capacity",
    "exploration",
    "pools",
    "selection",
    "crowds",
    "ledger",
    "leases",
    "settings",
)
"""The files that define functions, in the order in which they are loaded."""


_HEADS = {"apply": "#!lua\n", "view": "#!lua flags=no-writes\n"}
"""Without a flag, a server whose memory is full refuses the whole script, not a command in its middle."""

_LAZILY = """
local function lazily(fill)
  local module = {}
  return setmetatable(module, {
    __index = function(_, name)
      setmetatable(module, nil)
      fill(module)
      return module[name]
    end,
  })
end
"""
"""Defines the functions of a file when the first one of them is used: a call needs few of the files."""


@cache
def script(main: str) -> str:
    """Return the script whose last part is the file `main`: "apply" or "view"."""
    folder = files(__package__)
    text = {name: (folder / f"{name}.lua").read_text("utf-8") for name in (*MODULES, main)}
    modules = [f"{name} = lazily(function({name})\n{text[name]}end)\n" for name in MODULES]
    return "".join([_HEADS[main], f"local {', '.join(MODULES)}\n", _LAZILY, *modules, text[main]])


@cache
def digest(main: str) -> str:
    """Return the name by which the server keeps the script."""
    return sha1(script(main).encode(), usedforsecurity=False).hexdigest()
