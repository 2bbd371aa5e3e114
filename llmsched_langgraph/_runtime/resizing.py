"""Changes the slots of a backend while it runs, with those of its accounts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from llmsched_langgraph._ledger.auto import Auto
from llmsched_langgraph._ledger.backends import as_slots
from llmsched_langgraph._runtime.driver import Driver
from llmsched_langgraph.errors import ConfigurationError


def resize(
    driver: Driver, names: Sequence[str], slots: int | Auto | Literal["auto"], backend: str | None
) -> None:
    """Change a backend's number of slots.

    Args:
        driver: the driver.
        names: the names of its backends.
        slots: the new value.
        backend: the backend's name; None if there is one only.

    Raises:
        ConfigurationError: the backend does not exist, or `slots` is invalid.
    """
    if backend is None and len(names) == 1:
        backend = names[0]
    if backend is None or backend not in names:
        seen = "resize() needs a backend" if backend is None else f"no backend {backend!r}"
        raise ConfigurationError(f"{seen}; name one of: {', '.join(names)}")
    new = as_slots(slots, "slots")
    shared = driver.settings(backend)
    assert shared is not None
    driver.configure(replace(shared, slots=new))  # first: accounts that come now copy it
    driver.look()
    for now in driver.backends.values():
        if now.backend.name != backend == now.backend.shared:
            driver.configure(replace(now.backend, slots=new))
