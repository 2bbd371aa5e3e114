"""Counting tokens: by tiktoken's table if it is there and intact, by the estimate else; never a download."""

from __future__ import annotations

import hashlib
import socket
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from llmsched_langgraph import _tokens as tokens

TEXT = "one two three four five"  # 23 characters
ESTIMATE = 6


@pytest.fixture
def network(monkeypatch):
    """Every use of a socket fails and is remembered, in whatever thread it happens."""
    used = []

    def refuse(*args, **kwargs):
        used.append(args)
        raise OSError("no network in this test")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    return used


@pytest.fixture(autouse=True)
def fresh(monkeypatch, network):
    """A process that has not counted anything yet; no thread is left behind."""
    monkeypatch.setattr(tokens, "_encode", None)
    monkeypatch.setattr(tokens, "_loading", threading.Lock())
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR", raising=False)
    monkeypatch.delenv("DATA_GYM_CACHE_DIR", raising=False)
    yield
    join_loader()
    assert network == []


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty folder as tiktoken's cache."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def words(monkeypatch, cache):
    """An intact table in the cache, and a tiktoken whose tokens are words."""
    table = cache / tokens._TABLE
    table.write_bytes(b"table")
    monkeypatch.setattr(tokens, "_TABLE_SHA256", hashlib.sha256(b"table").hexdigest())
    encoding = SimpleNamespace(encode_ordinary=str.split)
    monkeypatch.setitem(sys.modules, "tiktoken", SimpleNamespace(get_encoding=lambda name: encoding))
    return table


def join_loader():
    for thread in threading.enumerate():
        if thread.name == "llmsched-tiktoken":
            thread.join(10)


@pytest.mark.parametrize(
    ("length", "estimate"), [(0, 0), (1, 1), (4, 1), (5, 2), (8, 2), (9, 3), (4_000_001, 1_000_001)]
)
def test_estimate(length, estimate):
    """One token for every four characters, rounded up."""
    assert tokens.estimate_tokens("x" * length) == estimate


def test_without_a_table_the_estimate_is_used(cache):
    """With an empty cache the estimate is what is counted, also after the attempt to load."""
    assert tokens.count_tokens(TEXT) == ESTIMATE
    join_loader()
    assert tokens.count_tokens(TEXT) == ESTIMATE
    assert tokens.load() is False
    assert list(cache.iterdir()) == []


def test_a_wrong_table_is_left_alone(cache):
    """A file of another content is neither used, nor deleted, nor replaced."""
    table = cache / tokens._TABLE
    table.write_bytes(b"not the table")
    assert tokens.count_tokens(TEXT) == ESTIMATE
    join_loader()
    assert tokens.load() is False
    assert tokens.count_tokens(TEXT) == ESTIMATE
    assert table.read_bytes() == b"not the table"
    assert list(cache.iterdir()) == [table]


def test_a_cache_that_is_turned_off_is_no_table(monkeypatch):
    """An empty name turns tiktoken's cache off, so that a load would download: it is not tried."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    assert tokens.load() is False


@pytest.mark.parametrize("variable", ["TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"])
def test_where_the_table_is_looked_for(monkeypatch, tmp_path, variable):
    """Both of tiktoken's variables name the folder."""
    (tmp_path / tokens._TABLE).write_bytes(b"table")
    monkeypatch.setenv(variable, str(tmp_path))
    assert tokens._cached_table() == tmp_path / tokens._TABLE


def test_a_table_that_cannot_be_read_is_no_table(monkeypatch, words):
    """A file that somebody else owns costs the exact count, not an error in the background."""

    def refuse(path):
        raise PermissionError(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert tokens.load() is False
    assert tokens.count_tokens(TEXT) == ESTIMATE


def test_with_an_intact_table_the_count_is_exact(words):
    """The first count starts loading and nobody waits for it; once loaded, tiktoken counts."""
    assert tokens.count_tokens(TEXT) == ESTIMATE
    join_loader()
    assert tokens.count_tokens(TEXT) == 5


def test_the_table_is_looked_for_once(monkeypatch, cache):
    """Counting again and again does not start a thread each time."""
    loads = []
    monkeypatch.setattr(tokens, "load", lambda: loads.append(1))
    for _ in range(3):
        tokens.count_tokens(TEXT)
        join_loader()
    assert loads == [1]


def test_long_texts_are_counted_on_their_beginning(words):
    """Beyond the stated length the count is scaled up from that much of the text."""
    assert tokens.load() is True
    assert tokens.count_tokens("abc " * 5_000) == 5_000
    assert tokens.count_tokens("abc " * 50_000) == 50_000
    assert tokens.count_tokens("abc " * 5_000 + "x" * 20_000) == 10_000
