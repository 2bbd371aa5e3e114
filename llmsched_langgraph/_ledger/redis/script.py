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
    "ledger",
    "leases",
    "settings",
)
"""The files that define functions, in the order in which they are loaded."""


@cache
def script(main: str) -> str:
    """Return the script whose last part is the file `main`: "apply" or "view"."""
    folder = files(__package__)
    tables = "".join(f"local {name} = {{}}\n" for name in MODULES)
    parts = [f"do\n{(folder / f'{name}.lua').read_text('utf-8')}end\n" for name in MODULES]
    return tables + "".join(parts) + (folder / f"{main}.lua").read_text("utf-8")


@cache
def digest(main: str) -> str:
    """Return the name by which the server keeps the script."""
    return sha1(script(main).encode(), usedforsecurity=False).hexdigest()
