"""Sends requests to the replica of a backend that the ledger chose.

Does not choose. A request keeps its path and its query; scheme, host and port become those of the replica.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit, urlunsplit

from llmsched_langgraph._runtime.slot import Slot
from llmsched_langgraph.errors import ConfigurationError


def send_to_replica(slot: Slot, request: Any) -> None:
    """Change the URL and the host of a request of httpx, if the slot has a replica."""
    origin = slot.replica
    if not origin:
        return
    split, url = urlsplit(origin), request.url
    request.url = url.copy_with(scheme=split.scheme, host=split.hostname, port=split.port)
    request.headers["Host"] = request.url.netloc.decode("ascii")


def moved(url: str, origin: str) -> str:
    """Return the URL with scheme, host and port of a replica."""
    split = urlsplit(origin)
    return urlunsplit(urlsplit(url)._replace(scheme=split.scheme, netloc=split.netloc))


def cannot_be_moved(backend: str, library: str) -> ConfigurationError:
    """Return the error of a request whose library has chosen a connection before it asks for a slot."""
    return ConfigurationError(
        f"backend {backend!r} has replicas, but requests of {library} cannot be sent to one: use models whose"
        f" library is httpx or aiohttp, or one backend for each server"
    )
