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
    place = f"{login.partition(':')[0]}:***@{host}" if ":" in login else f"{login}{at}{host}"
    return urlunsplit((scheme, place, path, "", "")) if place or path else url.partition("?")[0]


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
            # A connection may have gone stale. A server that is too slow is not asked twice.
            retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
        )
        pool = server.connection_pool
        pool.connection_kwargs["decode_responses"] = False  # answers are bytes, whatever the URL says
        pool.connection_class(**pool.connection_kwargs)  # does not connect; an option may be unknown
        scheme, _, path, _, _ = urlsplit(url)
        if scheme == "unix" or not path.strip("/") or path.strip("/").isdecimal():
            return server
        wrong = "its path is not the number of a database"
    except (TypeError, ValueError) as error:
        # Of a URL that may be split wrongly, nothing is quoted: it may be a part of a password.
        wrong = "one of its options is unknown" if isinstance(error, TypeError) else ""
    raise ConfigurationError(
        f"url: {shown(url) or repr(url)} is no URL of Redis{wrong and ': '}{wrong}; write one such as "
        "redis://host:6379/0, rediss://user:password@host:6379/0 or unix:///path/to/socket"
    )
