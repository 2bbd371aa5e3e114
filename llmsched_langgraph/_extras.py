"""Says how to install an extra of this package, for the error of a part that needs it.

Does not know what needs an extra: the caller says it. The command names the folder, the archive or the
repository that the package was installed from, because an index does not have that one (PEP 610).
"""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from llmsched_langgraph.errors import ConfigurationError

PACKAGE = "llmsched-langgraph"


def needs_extra(what: str, module: str | None, extra: str) -> ConfigurationError:
    """Return the error that something needs a module that is not installed.

    Args:
        what: what needs it; the message begins with it.
        module: the name of the module; None if it is unknown.
        extra: the extra that has it.
    """
    missing = f"{module}, of the extra `{extra}`" if module else f"the extra `{extra}`"
    return ConfigurationError(f"{what} needs {missing}: {install(extra)}")


def install(extra: str) -> str:
    """Return the command that installs an extra of the package as it is installed here."""
    return f"pip install {_target(extra, _origin())}"


def _origin() -> dict[str, Any]:
    """Return where the package was installed from, as PEP 610 records it; empty for an index."""
    try:
        text = distribution(PACKAGE).read_text("direct_url.json")
        found = json.loads(text) if text else {}
    except (PackageNotFoundError, OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("url"), str) else {}


def _target(extra: str, origin: dict[str, Any]) -> str:
    """Return the arguments of `pip install`."""
    if not origin:
        return f'"{PACKAGE}[{extra}]"'
    url = urlsplit(origin["url"])
    if "dir_info" in origin and url.scheme == "file":
        editable = "-e " if (origin["dir_info"] or {}).get("editable") else ""
        return f'{editable}"{url2pathname(url.path)}[{extra}]"'
    place, source = origin["url"], origin.get("vcs_info") or {}
    if source:
        version = source.get("requested_revision") or source.get("commit_id")
        place = f"{source.get('vcs', 'git')}+{place}" + (f"@{version}" if version else "")
    if folder := origin.get("subdirectory"):
        place += f"#subdirectory={folder}"
    return f'"{PACKAGE}[{extra}] @ {place}"'
