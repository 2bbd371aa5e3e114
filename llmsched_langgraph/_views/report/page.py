"""Joins the page: one HTML file with its data, its style and its script, which loads nothing.

Does not compute what the page shows. The files of the page are in the folder `page`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any

SECTIONS = ("summary", "paid", "grants", "slots", "jobs", "predicted")
"""The sections of the page, from top to bottom. Each is a script that calls `section(...)` once."""

SCRIPTS = ("base", "chart", "data", "view", "time", *SECTIONS, "details", "start")
"""The scripts in the order in which they are joined. They share one scope."""

_MARK = re.compile(r"\{\{(\w+)\}\}")

_NOT_ASCII = re.compile(r"[^\x00-\x7f]")

_ESCAPES = {ord(one): f"\\u{ord(one):04x}" for one in "<>&"}


def page_html(data: Mapping[str, Any], title: str) -> str:
    """Return the page, in ASCII: it is the same page wherever it is embedded.

    No text of the data can end the script that holds it: `<`, `>` and `&` are escaped. The content security
    policy permits this page's own style and script, by their hashes, and no load.

    Args:
        data: what the scripts read, JSON data.
        title: the title of the page.
    """
    style, script = _style(), _script()
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    # ensure_ascii: a lone surrogate in a name has no other form.
    text = json.dumps(data, separators=(",", ":"), allow_nan=False, ensure_ascii=True).translate(_ESCAPES)
    title = escape(title).encode("ascii", "xmlcharrefreplace").decode()
    parts = {"policy": policy, "title": title, "style": style, "script": script, "data": text}
    return _MARK.sub(lambda found: parts[found[1]], _read("page.html"))


@cache
def _read(name: str) -> str:
    return (files("llmsched_langgraph._views.report") / "page" / name).read_text(encoding="utf-8")


def _style() -> str:
    return _read("page.css")


@cache
def _script() -> str:
    joined = "\n".join(_read(f"{name}.js") for name in SCRIPTS)
    joined = _NOT_ASCII.sub(lambda found: json.dumps(found[0])[1:-1], joined)  # in texts, or in comments
    return f'(() => {{\n"use strict";\n{joined}}})();\n'


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
