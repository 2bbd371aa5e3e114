"""Applications for tests: their fingerprint is their name, so that it can be read where it is a key."""

from __future__ import annotations

from functools import cache

from llmsched_langgraph import Application


@cache
def app(name):
    """The application of that name."""
    application = Application.of(name)
    object.__setattr__(application, "fingerprint", name)
    return application
