"""Which backend serves a call, given all names that the call goes by."""

from __future__ import annotations

import pytest

from llmsched_langgraph import Backend, ConfigurationError, Scheduler, UnknownModelError
from llmsched_langgraph._runtime import routing
from llmsched_langgraph._runtime.routing import Requested, Router

AZURE = Requested(
    "AzureChatOpenAI", ("gpt-4o", "prod-east"), ("model", "deployment"), (), ("https://east.azure.com",)
)


def serving(asked: Requested | str | None, *pools: Backend) -> str:
    return Router(pools).backend_of(asked)


def claims(name: str, *models: str, urls: tuple[str, ...] | None = None) -> Backend:
    return Backend(name, 1, models or None, urls)


@pytest.mark.parametrize("model", ["gpt-4o", "prod-east", "gpt-*", "prod-????", "[pq]rod-east", "*"])
def test_any_name_of_a_call_is_enough(model):
    """Model or deployment, word for word or as a glob."""
    assert serving(AZURE, claims("other", "o1"), claims("mine", model), claims("rest")) == "mine"


@pytest.mark.parametrize("model", ["GPT-4o", "gpt", "4o", "east", "prod-?", "https://east.azure.com"])
def test_what_is_no_name_of_the_call(model):
    """Case counts, and a name is matched as a whole."""
    assert serving(AZURE, claims("other", model), claims("rest")) == "rest"


@pytest.mark.parametrize(
    "url",
    [
        "https://east.azure.com",
        "https://east.azure.com/",
        "https://*.azure.com",
        "https://*",
        "*://east.azure.com",
        "*azure*",
    ],
)
def test_a_base_url_is_enough(url):
    """As a glob, too, and with or without a final slash."""
    assert serving(AZURE, claims("other", "o1"), claims("mine", urls=(url,))) == "mine"


@pytest.mark.parametrize("url", ["http://east.azure.com", "https://east.azure.co", "https://azure.com"])
def test_what_is_another_url(url):
    """Scheme and host are matched as a whole."""
    assert serving(AZURE, claims("other", urls=(url,)), claims("rest")) == "rest"


def test_a_base_url_includes_what_is_below():
    """A backend is named by its root; the model knows the version's path, a request the whole path."""
    pool = claims("gpu", urls=("http://gpu-1:8000",))
    for url in ("http://gpu-1:8000", "http://gpu-1:8000/v1", "http://gpu-1:8000/v1/chat/completions"):
        assert serving(Requested(base_urls=(url,)), pool) == "gpu"
    assert serving(Requested(base_urls=("http://gpu-1:8001/v1",)), pool, claims("rest")) == "rest"


def test_either_models_or_base_urls():
    """A backend that has both is claimed by one of them."""
    pool = Backend("mine", 1, ("o1",), ("https://east.azure.com",))
    assert serving(AZURE, pool) == serving("o1", pool) == "mine"


def test_the_first_backend_that_claims_a_call():
    """The order of backends decides, not that of names or how exact a glob is."""
    exact, wide = claims("exact", "gpt-4o"), claims("wide", "gpt-*")
    assert serving(AZURE, exact, wide) == "exact"
    assert serving(AZURE, wide, exact) == "wide"
    east = claims("east", "prod-east")
    assert serving(AZURE, east, exact) == "east"
    assert serving(AZURE, claims("rest"), east) == "east"


def test_loose_names_come_last():
    """A model's name without its provider counts if nobody claims the whole name."""
    asked = Requested("ChatLiteLLM", ("azure/gpt-4o",), ("model",), ("gpt-4o",))
    short, whole, rest = claims("short", "gpt-4o"), claims("whole", "azure/*"), claims("rest")
    assert serving(asked, short, whole, rest) == "whole"
    assert serving(asked, rest, short) == "short"
    assert serving(asked, claims("other", "o1"), rest) == "rest"


@pytest.mark.parametrize("asked", [None, "", Requested("FakeListChatModel")])
def test_a_call_without_a_name(asked):
    """The backend for the rest serves it, or one that claims everything."""
    assert serving(asked, claims("some", "g*"), claims("rest")) == "rest"
    assert serving(asked, claims("all", "*")) == "all"


def test_one_name_may_be_a_url():
    """So `scheduler.slot("http://...")` finds a backend that is known by its URL."""
    assert serving("http://gpu-1:8000/v1/", claims("gpu", urls=("http://gpu-1:*",))) == "gpu"


def test_brackets_in_a_name():
    """A name that is no glob, but looks like one, is found as it is written."""
    assert serving("tuned[v2]", claims("mine", "tuned[v2]")) == "mine"


THE_REST = "or add a Backend without models to serve the rest"


@pytest.mark.parametrize(
    ("asked", "seen", "cure"),
    [
        (
            AZURE,
            "AzureChatOpenAI, deployment 'prod-east', model 'gpt-4o'",
            f"name one of these in a Backend's models, {THE_REST}",
        ),
        (
            Requested("FakeListChatModel"),
            "FakeListChatModel, which names no model",
            "add a Backend without models",
        ),
        ("gpt-4o", "model 'gpt-4o'", f"name it in a Backend's models, {THE_REST}"),
    ],
)
def test_what_no_backend_serves(asked, seen, cure):
    """The error says what was seen, what is known, and the cure."""
    with pytest.raises(UnknownModelError) as caught:
        serving(asked, claims("one", "tiny-*"), claims("two", "o1"))
    assert str(caught.value) == f"no backend serves {seen} (known: o1, tiny-*); {cure}"


def test_the_url_is_told_where_urls_count():
    """It is part of the error if a backend is known by a URL."""
    with pytest.raises(
        UnknownModelError, match=r"model 'gpt-4o', base URL 'https://east\.azure\.com' \(known: h"
    ):
        serving(AZURE, claims("gpu", urls=("http://gpu-1:8000",)))


@pytest.mark.parametrize(
    ("backends", "message"),
    [
        ([claims("x", "m", "n"), claims("y", "n")], "'x' and 'y' both claim model 'n'"),
        (
            [claims("x", urls=("http://h/v1",)), claims("y", urls=("http://h/v1/",))],
            "'x' and 'y' both claim base URL 'http://h/v1'",
        ),
        ([claims("x"), claims("z", "m"), claims("y")], "'x' and 'y' both claim every model"),
    ],
)
def test_backends_that_claim_the_same(backends, message):
    """Word for word: an error names both. Globs may overlap."""
    with pytest.raises(ConfigurationError, match=message):
        Scheduler(backends=backends)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"base_urls": "http://h"}, r"base_urls must be a list of URLs, e.g. base_urls=\('http://h',\)"),
        ({"base_urls": ()}, "'b' has no base URL; name some"),
        ({"base_urls": ["gpu-1:8000"]}, r"base_urls has 'gpu-1:8000'; write a URL, such as \"http://gpu-1:"),
        ({"base_urls": [""]}, "base_urls must be a list of URLs, but has ''"),
        ({"base_urls": [8000]}, "base_urls must be a list of URLs, but has 8000"),
        ({"models": [None]}, "models must be a list of names, but has None"),
        ({"models": 7}, "models must be a list of names, not 7"),
    ],
)
def test_bad_claims(arguments, message):
    """They are refused when the backend is made, with its name and the cure."""
    with pytest.raises(ConfigurationError, match=f"backend 'b'.*{message}|{message}"):
        Backend("b", **arguments)


def test_a_known_call_costs_one_lookup(monkeypatch):
    """Patterns are matched once for each set of names."""
    router = Router([claims("mine", "gpt-*"), claims("rest")])
    assert router.backend_of(AZURE) == "mine"
    monkeypatch.setattr(routing, "fnmatchcase", None)
    assert router.backend_of(AZURE._replace()) == "mine"
    with pytest.raises(TypeError):
        router.backend_of("gpt-5")
