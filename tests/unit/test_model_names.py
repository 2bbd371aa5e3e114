"""The names that model objects and their calls go by, with objects made like those of the providers."""

from __future__ import annotations

import enum
from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel, FakeListChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_openai import (
    AzureChatOpenAI,
    AzureOpenAI,
    AzureOpenAIEmbeddings,
    ChatOpenAI,
    OpenAI,
    OpenAIEmbeddings,
)
from pydantic import AnyHttpUrl, BaseModel, ConfigDict, Field, SecretStr

from llmsched_langgraph._adapter.model_names import names_of, names_of_request
from llmsched_langgraph._runtime.routing import Requested

EAST = {"api_key": "x", "api_version": "2024-01-01", "azure_endpoint": "https://east.azure.com/"}


class Chat(BaseChatModel):
    """A model of no provider."""

    @property
    def _llm_type(self) -> str:
        return "chat"

    def _generate(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=AIMessage("."))])


def of_package(package: str, cls: type) -> type:
    """The class, as if a provider's package had defined it."""
    cls.__module__ = f"{package}.chat_models"
    return cls


def names(model: Any, /, **kwargs: Any) -> set[tuple[str, str]]:
    asked = names_of(model, kwargs)
    assert len(set(asked.names)) == len(asked.names) == len(asked.labels)
    return set(zip(asked.labels, asked.names, strict=True))


def reported(model: Any, /, **kwargs: Any) -> dict[str, Any]:
    """The keyword arguments that LangChain hands to a hook."""
    return {**kwargs, "run_manager": SimpleNamespace(metadata=dict(model._get_ls_params(**kwargs)))}


# -- OpenAI's, as installed ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (ChatOpenAI(model="gpt-4o", api_key="x"), {("model", "gpt-4o")}),
        (OpenAI(model="instruct", api_key="x"), {("model", "instruct")}),
        (AzureChatOpenAI(azure_deployment="prod", **EAST), {("deployment", "prod")}),
        (
            AzureChatOpenAI(azure_deployment="prod", model="gpt-4o", **EAST),
            {("deployment", "prod"), ("model", "gpt-4o")},
        ),
        (AzureChatOpenAI(model="gpt-4o", **EAST), {("model", "gpt-4o")}),
        (AzureOpenAI(azure_deployment="prod", **EAST), {("deployment", "prod")}),
        (OpenAIEmbeddings(model="embed-3", api_key="x"), {("model", "embed-3")}),
        (
            AzureOpenAIEmbeddings(azure_deployment="emb", model="embed-3", **EAST),
            {("deployment", "emb"), ("model", "embed-3")},
        ),
    ],
    ids=lambda value: type(value).__name__ if hasattr(value, "dict") else "",
)
def test_openai(model, expected):
    """Model and deployment, also as LangChain reports them; no default that the user never chose."""
    assert names(model) == expected
    if isinstance(model, BaseChatModel):
        assert names(model, **reported(model)) == expected


def test_a_default_counts_if_nothing_else_is_given():
    """Then it is what the model requests."""
    assert names(ChatOpenAI(api_key="x")) == {("model", ChatOpenAI.model_fields["model_name"].default)}


@pytest.mark.parametrize(
    ("model", "url"),
    [
        (ChatOpenAI(api_key="x"), "https://api.openai.com/v1"),
        (OpenAI(api_key="x"), "https://api.openai.com/v1"),
        (OpenAIEmbeddings(api_key="x"), "https://api.openai.com/v1"),
        (ChatOpenAI(api_key="x", base_url="http://gpu-1:8000/v1/"), "http://gpu-1:8000/v1"),
        (OpenAI(api_key="x", base_url="http://me:secret@gpu-1/v1?key=1"), "http://gpu-1/v1"),
        (AzureChatOpenAI(azure_deployment="prod", **EAST), "https://east.azure.com"),
    ],
)
def test_openais_urls(model, url):
    """The one that was given, or the client's own; without credentials, query and final slash."""
    assert names_of(model, {}).base_urls == (url,)


# -- what the call itself says --------------------------------------------------------------------


@pytest.mark.parametrize("word", ["model", "model_name", "model_id", "modelId"])
def test_the_calls_own_model_replaces_the_objects(word):
    """It is what is requested; what the object is called does not matter then."""
    model = ChatOpenAI(model="big", api_key="x")
    assert names(model, **{word: "small"}) == {("model", "small")}
    assert names(model, **reported(model, model="small")) == {("model", "small")}


def test_the_calls_own_model_goes_first():
    """In the order of names."""
    model = AzureChatOpenAI(azure_deployment="prod", model="big", **EAST)
    assert names_of(model, reported(model, model="small")).names == ("small", "prod")


def test_a_report_that_ignores_the_calls_own_model():
    """Some classes report their own name whatever is asked for; it is not asked for."""
    model = ChatOpenAI(model="models/big", api_key="x")
    run_manager = SimpleNamespace(metadata={"ls_model_name": "big"})
    assert names(model, model="small", run_manager=run_manager) == {("model", "small")}


def test_a_model_that_only_langchain_knows():
    """A class may report a name that is in no attribute."""
    run_manager = SimpleNamespace(metadata={"ls_model_name": "hidden"})
    assert names(Chat(), run_manager=run_manager) == {("model", "hidden")}


@pytest.mark.parametrize("value", [None, "", 7, SecretStr("m"), ["m"], {"m": 1}])
def test_what_is_no_name(value):
    """In the call, in the report, or in the object: it is passed over."""
    holder = Chat()
    holder.__dict__["model"] = value
    run_manager = SimpleNamespace(metadata={"ls_model_name": value})
    assert names(holder, model=value, model_name=value, run_manager=run_manager) == set()


def test_names_of_enumerations():
    """An enumeration of strings is as good as strings."""

    class Models(enum.StrEnum):
        SMALL = "small"

    asked = names_of(Chat(), {"model": Models.SMALL})
    assert asked.names == ("small",)
    assert type(asked.names[0]) is str


# -- other providers ------------------------------------------------------------------------------


class Bedrock(Chat):
    model_id: str = Field(alias="model")
    base_model_id: str | None = None
    provider: str | None = None
    endpoint_url: str | None = None


class Google(Chat):
    model: str


class LiteLLM(Chat):
    model: str = "gpt-3.5-turbo"
    model_name: str | None = None
    api_base: str | None = None


class Ollama(Chat):
    model: str
    base_url: str | None = None


class HuggingFaceEndpoint(Chat):
    repo_id: str | None = None
    model: str | None = None
    endpoint_url: str | None = None


class ChatHuggingFace(Chat):
    llm: Any
    model_id: str | None = None


class Nvidia(Chat):
    model: str
    base_url: str = "https://integrate.api.nvidia.com/v1"


class Mistral(Chat):
    model: str = "mistral-small"
    endpoint: str = "https://api.mistral.ai/v1"


class Sagemaker(Chat):
    endpoint_name: str


class Fireworks(Chat):
    model_name: str = Field(alias="model")
    fireworks_api_base: str | None = None


for package, its_class in (
    ("langchain_aws", Bedrock),
    ("langchain_google_genai", Google),
    ("langchain_litellm", LiteLLM),
    ("langchain_ollama", Ollama),
):
    of_package(package, its_class)

ARN = "arn:aws:bedrock:us-east-1:1:application-inference-profile/abc"


@pytest.mark.parametrize(
    ("model", "names", "loose", "urls"),
    [
        (Bedrock(model="anthropic.claude-3"), ["anthropic.claude-3"], [], []),
        (
            Bedrock(model="us.anthropic.claude-3", endpoint_url="https://vpce/"),
            ["us.anthropic.claude-3"],
            ["anthropic.claude-3"],
            ["https://vpce"],
        ),
        (
            Bedrock(model=ARN, base_model_id="anthropic.claude-3", provider="anthropic"),
            [ARN, "anthropic.claude-3"],
            ["abc", "anthropic"],
            [],
        ),
        (Google(model="gemini-2"), ["gemini-2"], ["models/gemini-2"], []),
        (Google(model="models/gemini-2"), ["models/gemini-2"], ["gemini-2"], []),
        (
            LiteLLM(model="openai/gpt-4o", api_base="http://h:4000"),
            ["openai/gpt-4o"],
            ["gpt-4o"],
            ["http://h:4000"],
        ),
        (LiteLLM(model="gpt-4o"), ["gpt-4o"], [], []),
        (
            LiteLLM(model="openrouter/meta/llama"),
            ["openrouter/meta/llama"],
            ["meta/llama"],
            [],
        ),
        (
            Ollama(model="llama3", base_url="gpu-1:11434"),
            ["llama3"],
            ["llama3:latest"],
            ["http://gpu-1:11434"],
        ),
        (Ollama(model="llama3:latest"), ["llama3:latest"], ["llama3"], []),
        (Ollama(model="llama3:8b"), ["llama3:8b"], [], []),
        (HuggingFaceEndpoint(repo_id="meta/llama", model="meta/llama"), ["meta/llama"], [], []),
        (
            HuggingFaceEndpoint(model="http://h/x", endpoint_url="http://h/x"),
            [],
            [],
            ["http://h/x"],
        ),
        (ChatHuggingFace(llm=HuggingFaceEndpoint(repo_id="meta/llama")), ["meta/llama"], [], []),
        (
            ChatHuggingFace(llm=HuggingFaceEndpoint(endpoint_url="http://h/x"), model_id="mine"),
            ["mine"],
            [],
            ["http://h/x"],
        ),
        (Nvidia(model="meta/llama3"), ["meta/llama3"], [], ["https://integrate.api.nvidia.com/v1"]),
        (Mistral(), ["mistral-small"], [], ["https://api.mistral.ai/v1"]),
        (Sagemaker(endpoint_name="ep"), ["ep"], [], []),
        (
            Fireworks(model="accounts/fireworks/models/llama", fireworks_api_base="http://h"),
            ["accounts/fireworks/models/llama"],
            ["llama"],
            ["http://h"],
        ),
    ],
)
def test_other_providers(model, names, loose, urls):
    """By attributes with the names that the providers use, and each provider's way to write a model."""
    asked = names_of(model, {})
    assert sorted(asked.names) == sorted(names)
    assert sorted(asked.loose) == sorted(loose)
    assert list(asked.base_urls) == urls


def test_a_subclass_is_of_its_providers_family():
    """A user's own subclass keeps the provider's rules, and its own default is a name."""

    class Mine(LiteLLM):
        model: str = "azure/gpt-4o"

    asked = names_of(Mine(), {})
    assert (asked.by, asked.names, asked.loose) == ("Mine", ("azure/gpt-4o",), ("gpt-4o",))


# -- unusual objects ------------------------------------------------------------------------------


def test_properties_and_class_attributes():
    """A name may be computed, or be the class's."""

    class Computed(Chat):
        size: int = 7

        @property
        def model_name(self) -> str:
            return f"llama-{self.size}b"

    Computed.deployment_name = "prod"
    assert names(Computed()) == {("model", "llama-7b"), ("deployment", "prod")}


@pytest.mark.parametrize("error", [RuntimeError, AttributeError, KeyError])
def test_a_property_that_raises(error):
    """It gives no name; the others count."""

    class Broken(Chat):
        deployment_name: str = "prod"

        @property
        def model_name(self) -> str:
            raise error("not yet")

    assert names(Broken()) == {("deployment", "prod")}


def test_only_names_are_read():
    """Other properties have effects that a look at a model must not have."""

    class Touchy(Chat):
        @property
        def client(self) -> Any:
            raise AssertionError("a client was made")

        @property
        def base_url(self) -> Any:
            raise AssertionError("a URL was looked up")

        def model_id(self) -> str:
            raise AssertionError("it was called")

    assert names_of(Touchy(), {}).names == ()


def test_attributes_that_the_class_does_not_declare():
    """A model that accepts any attribute, and an object that is no pydantic model."""

    class Open(Chat):
        model_config = ConfigDict(extra="allow")

    class Embeddings:
        def __init__(self) -> None:
            self.model, self.base_url = "embed", "http://h"

    assert names(Open(model="m7")) == {("model", "m7")}
    assert names(Embeddings()) == {("model", "embed")}
    assert names_of(Embeddings(), {}).base_urls == ("http://h",)


def test_urls_that_are_no_strings():
    """pydantic's and httpx's URLs count as URLs."""

    class Typed(BaseModel):
        my_api_base: AnyHttpUrl

    assert names_of(Typed(my_api_base="http://h/v1"), {}).base_urls == ("http://h/v1",)


@pytest.mark.parametrize("attribute", ["llm", "model", "anything"])
def test_a_model_that_wraps_another(attribute):
    """It goes by the name of the model inside, bound or not, however it keeps it."""

    class Wrapper(Chat):
        inside: Any = None

    inner = ChatOpenAI(model="big", api_key="x", base_url="http://h/v1")
    for kept, name in ((inner, "big"), (inner.bind(stop=["."]), "big"), (inner.bind(model="small"), "small")):
        wrapper = Wrapper()
        wrapper.__dict__[attribute] = kept
        outer = Wrapper(inside=wrapper)
        for model in (wrapper, outer):
            assert names(model) == {("model", name)}
            assert names_of(model, {}).base_urls == ("http://h/v1",)


def test_a_model_inside_itself():
    """The search ends."""
    loop = ChatHuggingFace(llm=None)
    loop.__dict__["llm"] = loop
    assert names(loop) == set()


@pytest.mark.parametrize("model", [FakeListChatModel(responses=["."]), object(), None, 7])
def test_objects_without_a_name(model):
    """They name nothing but their class."""
    asked = names_of(model, {})
    assert asked == Requested(type(model).__name__)


def test_an_object_that_cannot_be_read():
    """It names nothing; nothing is raised."""

    class Hostile:
        def __getattribute__(self, name: str) -> Any:
            raise RuntimeError(name)

    assert names_of(Hostile(), {}).names == ()


# -- raw requests ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "model", "expected", "base_url"),
    [
        ("http://h/v1/chat/completions", "m", [("model", "m")], "http://h/v1/chat/completions"),
        ("http://h/v1/responses", None, [], "http://h/v1/responses"),
        ("http://h/v1/responses", 7, [], "http://h/v1/responses"),
        (
            "https://e.azure.com/openai/deployments/prod/chat/completions?api-version=1",
            "gpt-4o",
            [("model", "gpt-4o"), ("deployment", "prod")],
            "https://e.azure.com/openai/deployments/prod/chat/completions",
        ),
        (
            "https://e.azure.com/openai/deployments/prod/embeddings",
            "prod",
            [("deployment", "prod")],
            "https://e.azure.com/openai/deployments/prod/embeddings",
        ),
    ],
)
def test_raw_requests(url, model, expected, base_url):
    """The model of the body, Azure's deployment of the path, and the URL."""
    asked = names_of_request(url, model)
    assert list(zip(asked.labels, asked.names, strict=True)) == expected
    assert asked.base_urls == (base_url,)
