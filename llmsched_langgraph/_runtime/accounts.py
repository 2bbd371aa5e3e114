"""Gives each account of a backend that is `per_account` slots, rates and pauses of its own.

Does not know keys: the adapter hashes them. An account is a backend for the ledger, with the settings of the
one that it belongs to; it is added at its first call and stays.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from llmsched_langgraph._ledger.backends import account_name
from llmsched_langgraph._runtime.routing import Requested, hashed
from llmsched_langgraph.errors import ConfigurationError

if TYPE_CHECKING:
    from llmsched_langgraph._runtime.driver import Driver


def account_of(asked: Requested | str | None, given: str | None) -> str:
    """Return the hash of a call's account: of the one that its caller gave, or of its key; empty for none."""
    if given is None:
        return asked.account if isinstance(asked, Requested) else ""
    return hashed((given,))


def account_of_key(key: object) -> str:
    """Return the hash by which statistics name the account of a key. See `Scheduler.account`.

    Raises:
        ConfigurationError: the key is no text, or empty.
    """
    if not isinstance(key, str) or not key:
        # The message does not show it.
        raise ConfigurationError(f"key must be text that is not empty, not a {type(key).__name__}")
    return hashed((key,))


def backend_of_account(driver: Driver, backend: str, account: str) -> str:
    """Return the name of the ledger's backend for an account; add it if the account is new."""
    name = account_name(backend, account)
    while True:
        shared, own = driver.settings(backend), driver.settings(name)
        assert shared is not None, f"there is no backend {backend!r}"
        # Another thread may have resized the backend since it was read.
        if own is not None and own.slots == shared.slots:
            return name
        driver.configure(replace(shared, name=name))
        driver.look()  # returns when it is there, or after a time
