"""Connects to a server by its URL, and shows the URL without its password.

Does not know what is stored there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from llmsched_langgraph._extras import needs_extra
from llmsched_langgraph.errors import ConfigurationError

if TYPE_CHECKING:
    import redis


def shown(url: str) -> str:
    """Return the URL without its password, which may also be in its query."""
    try:
        scheme, place, path, query, fragment = urlsplit(url)
    except ValueError:
        return "a URL that is invalid"
    if "@" in f"{path}{query}{fragment}":  # a password with "/", "?" or "#", which should be escaped
        return f"{scheme}://***"
    login, at, host = place.rpartition("@")
    return urlunsplit(
        (
            scheme,
            f"{login.partition(':')[0]}:***@{host}" if ":" in login else f"{login}{at}{host}",
            path,
            "",
            "",
        )
    )


def connected(url: str, timeout_s: float) -> redis.Redis:
    """Return a client of the server. It connects when it is used.

    Raises:
        ConfigurationError: the URL is invalid, or the package redis is not installed.
    """
    try:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry
    except ImportError:
        raise needs_extra("a server of slots or profiles", "redis", "redis") from None
    try:
        server = redis.Redis.from_url(
            url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            health_check_interval=30,
            retry=Retry(NoBackoff(), 1),  # a connection that has gone stale; the caller decides on the rest
        )
        # Answers are bytes, whatever the URL says.
        server.connection_pool.connection_kwargs["decode_responses"] = False
        return server
    except ValueError:
        raise ConfigurationError(
            f"url {shown(url)} is no URL of Redis; write one such as redis://host:6379/0, rediss://user:password@"
            f"host:6379/0 or unix:///path/to/socket"
        ) from None
