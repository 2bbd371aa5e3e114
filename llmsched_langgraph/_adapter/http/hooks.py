"""Hooks the HTTP libraries that the process has imported.

Does not import a library, or remove a hook. The classes are hooked, so clients that exist already are
included. Outside a call, a hook costs one read of a context variable.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from typing import Any

from llmsched_langgraph._adapter.http import aiohttp_hooks, httpx_hooks, urllib3_hooks
from llmsched_langgraph._fork import in_child

logger = logging.getLogger("llmsched_langgraph")

pending: dict[str, Callable[[Any], str | None]] = {
    "httpx": httpx_hooks.install,
    "httpx2": httpx_hooks.install,
    "aiohttp": aiohttp_hooks.install,
    "urllib3": urllib3_hooks.install,
}
"""The libraries that are not hooked yet, with the function that hooks each.

The functions are imported at once: a process that is forked during an import can never import that module.
"""

_lock = threading.Lock()


def _forked() -> None:
    global _lock
    _lock = threading.Lock()


in_child(_forked)


def install() -> None:
    """Hook each pending library that is imported. Idempotent; cheap if there is none."""
    for name in tuple(pending):
        module = sys.modules.get(name)
        if module is not None and not _is_loading(module):
            with _lock: _install_one(name, module)  # noqa: E701  # fmt: skip


def _is_loading(module: Any) -> bool:
    spec = getattr(module, "__spec__", None)
    return spec is not None and getattr(spec, "_initializing", False)


def _install_one(name: str, module: Any) -> None:
    hook = pending.get(name)
    if hook is None:
        return
    reason = hook(module)
    del pending[name]
    if reason is not None:
        logger.warning(
            "%s %s is not supported by llmsched-langgraph (%s): a call that uses it holds its slot from its "
            "begin to its end, also between its retries",
            name,
            getattr(module, "__version__", ""),
            reason,
        )
