"""Counts the tokens of a text for models that report none: with tiktoken's tables, or by estimate.

Does not call models and never uses the network: tiktoken is used only if its table for o200k_base is in its
cache (`TIKTOKEN_CACHE_DIR`). Without it the estimate is ceil(characters / 4).
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from llmsched_langgraph._fork import in_child, start_thread

CHARACTERS_PER_TOKEN = 4
"""Characters per token: OpenAI's rule of thumb for English text."""

EXACT_CHARACTERS = 20_000
"""Maximum characters that are encoded; longer texts are extrapolated from them, to bound the cost."""

# tiktoken's name of the file in its cache (the SHA-1 of its address), and the SHA-256 that it expects:
# tiktoken would delete a file with other content and download it again.
_TABLE = "fb374d419588a4632f3f557e76b4b70aebbca790"
_TABLE_SHA256 = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"

_encode: Callable[[str], list[int]] | None = None
_loading = threading.Lock()


def _forked() -> None:
    global _loading
    _loading = threading.Lock()  # the thread that loads the table may be the parent's


in_child(_forked)


def estimate_tokens(text: str) -> int:
    """Return ceil(characters / 4)."""
    return -(-len(text) // CHARACTERS_PER_TOKEN)


def count_tokens(text: str) -> int:
    """Return the tokens of `text`: exact once tiktoken's table is loaded, before that an estimate.

    The first call loads the table in a thread, if the file is there. Texts above `EXACT_CHARACTERS` are
    extrapolated.
    """
    encode = _encode
    if encode is None:
        if _loading.acquire(blocking=False):
            start_thread(threading.Thread(target=load, name="llmsched-tiktoken", daemon=True))
        return estimate_tokens(text)
    if len(text) <= EXACT_CHARACTERS:
        return len(encode(text))
    return len(encode(text[:EXACT_CHARACTERS])) * len(text) // EXACT_CHARACTERS


def load() -> bool:
    """Load tiktoken's table if its file is in the cache and intact; return whether it is loaded."""
    global _encode
    path = _cached_table()
    try:
        if path is None or hashlib.sha256(path.read_bytes()).hexdigest() != _TABLE_SHA256:
            return False
    except OSError:
        return False  # the file cannot be read
    import tiktoken

    _encode = tiktoken.get_encoding("o200k_base").encode_ordinary
    return True


def _cached_table() -> Path | None:
    folder = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR"))
    if folder is None:
        folder = str(Path(tempfile.gettempdir()) / "data-gym-cache")
    # An empty name disables tiktoken's cache: every load would be a download.
    path = Path(folder) / _TABLE
    return path if folder and path.is_file() else None
