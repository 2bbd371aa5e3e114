"""Reads the settings of a scheduler from a TOML file, whose keys are the names of arguments.

Does not make the scheduler. `Backend`, `Auto`, `Tenant` and `Scheduler` check the values themselves.

    policy = "gittins"              arguments of `Scheduler`
    max_wait_s = "none"             None, which TOML does not have; for this one alone
    [tenants]
    gold = 3                        a weight,
    trial = {max_slots = 2}         or the arguments of `Tenant`
    [[backends]]                    the arguments of a `Backend`
    name = "gpu"
    slots = {low = 4, high = 64}    a number, "auto", or the arguments of `Auto`
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from llmsched_langgraph._arguments import nearest
from llmsched_langgraph._ledger.auto import Auto
from llmsched_langgraph._ledger.backends import Backend
from llmsched_langgraph._ledger.tenants import Tenant
from llmsched_langgraph._runtime.scheduler import Scheduler
from llmsched_langgraph.errors import ConfigurationError

_OBJECTS = ("assign", "profile", "clock")
"""Arguments of `Scheduler` that no file can have: functions and objects."""


def settings_of_file(path: str) -> dict[str, Any]:
    """Return the arguments of `Scheduler` in a TOML file. Paths in it are relative to the working directory.

    Raises:
        ConfigurationError: the file cannot be read, is no TOML, has an unknown key, or a backend or a tenant
            in it is invalid; the message names file and key.
    """
    import tomllib

    try:
        data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror or error}") from None
    except ValueError as error:  # no TOML, or no UTF-8
        raise ConfigurationError(f"{path} is no TOML file: {error}") from None
    try:
        return _settings(data)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from None


def _settings(data: dict[str, Any]) -> dict[str, Any]:
    for name in _OBJECTS:
        if name in data:
            raise ConfigurationError(f"{name} is no plain value: give it to Scheduler in the program")
    known = [name for name in inspect.signature(Scheduler).parameters if name not in _OBJECTS]
    _check_keys(data, known, "")
    found = dict(data)
    if "slots" in found:
        found["slots"] = _slots(found["slots"], "slots")
    if "backends" in found:
        found["backends"] = _backends(found["backends"])
    tenants = found.get("tenants")
    if isinstance(tenants, dict):
        found["tenants"] = {name: _tenant(own, f"tenants.{name}") for name, own in tenants.items()}
    if found.get("max_wait_s") == "none":  # TOML has no None
        found["max_wait_s"] = None
    return found


def _backends(given: object) -> list[Backend]:
    if not isinstance(given, list) or not all(isinstance(own, dict) for own in given):
        raise ConfigurationError(f"backends must be tables, each under [[backends]], not {given!r:.80}")
    return [_backend(own, f"backends[{number}]") for number, own in enumerate(given)]


def _backend(given: dict[str, Any], what: str) -> Backend:
    if "slots" in given:
        given = {**given, "slots": _slots(given["slots"], f"{what}.slots")}
    backend: Backend = _made(Backend, given, what)
    return backend


def _slots(given: object, what: str) -> object:
    return _made(Auto, given, what) if isinstance(given, dict) else given


def _tenant(given: object, what: str) -> object:
    return _made(Tenant, given, what) if isinstance(given, dict) else given


def _made(cls: Callable[..., Any], given: dict[str, Any], what: str) -> Any:
    _check_keys(given, list(inspect.signature(cls).parameters), f"{what}.")
    try:
        return cls(**given)
    except ConfigurationError as error:
        raise ConfigurationError(f"{what}: {error}") from None


def _check_keys(given: Mapping[str, Any], known: list[str], above: str) -> None:
    for key in given:
        if key not in known:
            raise ConfigurationError(f"{above}{key} is no setting: {nearest(key, known)}")
