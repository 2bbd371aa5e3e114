"""The provider packages: how each is pointed at the server, through which library it sends, what it retries.

Runs nothing. What is said of retries is held against the packages by `test_bare.py`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

KEY = "not-a-key"
TIMEOUT_S = 1
"""What a provider package is told where a request is to time out."""


@dataclass(frozen=True)
class Provider:
    """One way to set up one package.

    Attributes:
        name: of the set-up.
        package: what must be installed for it, as it is imported.
        build: returns the chat model, given the server's URL and further options.
        sync: the library that sends for `invoke` and `stream`.
        asynchronous: the one that sends for `ainvoke` and `astream`.
        timeout: the options for a timeout of `TIMEOUT_S`, or the least above it; None if it takes none.
        retries: what the package tries again, as it comes: pairs of a fault and a way of calling.
        untold: ways of calling in which the package does not tell the tokens that its provider told.
        polls: ways of calling in which the package asks again after a 202.
    """

    name: str
    package: str
    build: Callable[..., Any] = field(repr=False)
    sync: str
    asynchronous: str
    timeout: dict[str, Any] | None = None
    retries: frozenset[tuple[str, str]] = field(default=frozenset(), repr=False)
    untold: frozenset[str] = frozenset()
    polls: frozenset[str] = frozenset()

    @property
    def installed(self) -> bool:
        """Whether the package can be imported."""
        return importlib.util.find_spec(self.package) is not None

    @property
    def threads(self) -> bool:
        """Whether asynchronous calls are synchronous ones in threads, which nothing can stop."""
        return self.asynchronous.endswith("in threads")


ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": KEY,
    "AWS_SECRET_ACCESS_KEY": KEY,
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "LANGSMITH_TRACING": "false",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "NVIDIA_USAGE_TELEMETRY_ENABLED": "false",
}
"""What the packages must find in the environment before they are imported: they ask the server alone."""


def _openai(url: str, **options: Any) -> Any:
    from langchain_openai import ChatOpenAI

    return ChatOpenAI(model="m", api_key=KEY, base_url=f"{url}/v1", stream_usage=True, **options)


def _openai_responses(url: str, **options: Any) -> Any:
    return _openai(url, use_responses_api=True, **options)


def _azure(url: str, **options: Any) -> Any:
    from langchain_openai import AzureChatOpenAI

    return AzureChatOpenAI(
        azure_endpoint=url,
        azure_deployment="d",
        api_version="2024-10-21",
        api_key=KEY,
        stream_usage=True,
        **options,
    )


def _anthropic(url: str, **options: Any) -> Any:
    from langchain_anthropic import ChatAnthropic

    return ChatAnthropic(model="m", api_key=KEY, base_url=url, max_tokens=64, **options)


def _google(url: str, **options: Any) -> Any:
    from langchain_google_genai import ChatGoogleGenerativeAI

    return ChatGoogleGenerativeAI(model="gemini-m", api_key=KEY, base_url=url, **options)


def _mistral(url: str, **options: Any) -> Any:
    from langchain_mistralai import ChatMistralAI

    return ChatMistralAI(model="m", api_key=KEY, base_url=f"{url}/v1", **options)


def _groq(url: str, **options: Any) -> Any:
    from langchain_groq import ChatGroq

    return ChatGroq(model="m", api_key=KEY, base_url=url, **options)


def _fireworks(url: str, **options: Any) -> Any:
    from langchain_fireworks import ChatFireworks

    return ChatFireworks(model="m", api_key=KEY, base_url=f"{url}/v1", **options)


def _cohere(url: str, **options: Any) -> Any:
    from langchain_cohere import ChatCohere

    return ChatCohere(model="m", cohere_api_key=KEY, base_url=url, **options)


def _ollama(url: str, **options: Any) -> Any:
    from langchain_ollama import ChatOllama

    return ChatOllama(model="m", base_url=url, **options)


def _botocore_timeout() -> dict[str, Any]:
    if importlib.util.find_spec("botocore") is None:
        return {}
    from botocore.config import Config

    return {"config": Config(read_timeout=TIMEOUT_S)}


def _bedrock(url: str, **options: Any) -> Any:
    from langchain_aws import ChatBedrockConverse

    model = "anthropic.claude-3-sonnet-20240229-v1:0"
    return ChatBedrockConverse(model=model, endpoint_url=url, region_name="us-east-1", **options)


def _bedrock_invoke(url: str, **options: Any) -> Any:
    from langchain_aws import ChatBedrock

    model = "anthropic.claude-3-sonnet-20240229-v1:0"
    return ChatBedrock(model=model, endpoint_url=url, region="us-east-1", **options)


def _litellm_to(model: str, url: str, **options: Any) -> Any:
    import litellm
    from langchain_litellm import ChatLiteLLM

    litellm.suppress_debug_info = True
    return ChatLiteLLM(model=model, api_key=KEY, api_base=url, **options)


def _litellm(url: str, **options: Any) -> Any:
    return _litellm_to("openai/m", f"{url}/v1", **options)


def _litellm_anthropic(url: str, **options: Any) -> Any:
    return _litellm_to("anthropic/claude-3-haiku-20240307", url, **options)


def _huggingface(url: str, **options: Any) -> Any:
    from langchain_huggingface import ChatHuggingFace, HuggingFaceEndpoint

    endpoint = HuggingFaceEndpoint(endpoint_url=url, huggingfacehub_api_token=KEY, **options)
    return ChatHuggingFace(llm=endpoint, model_id="m", stream_usage=True)


def _nvidia(url: str, **options: Any) -> Any:
    from langchain_nvidia_ai_endpoints import ChatNVIDIA

    model = ChatNVIDIA(model="m", api_key=KEY, base_url=f"{url}/v1", **options)
    for client in (model._client, model._async_client):  # which take no option for this
        client.polling_url_tmpl = f"{url}/v2/status/{{request_id}}"
    return model


def _deepseek(url: str, **options: Any) -> Any:
    from langchain_deepseek import ChatDeepSeek

    return ChatDeepSeek(model="m", api_key=KEY, api_base=f"{url}/v1", stream_usage=True, **options)


def _xai(url: str, **options: Any) -> Any:
    from langchain_xai import ChatXAI

    return ChatXAI(model="m", api_key=KEY, xai_api_base=f"{url}/v1", stream_usage=True, **options)


def _together(url: str, **options: Any) -> Any:
    from langchain_together import ChatTogether

    return ChatTogether(model="m", api_key=KEY, base_url=f"{url}/v1", stream_usage=True, **options)


_WHOLE = ("invoke", "ainvoke")
_STREAMS = ("stream", "astream")


def _again(faults: str, ways: tuple[str, ...] = (*_WHOLE, *_STREAMS)) -> frozenset[tuple[str, str]]:
    return frozenset((fault, way) for fault in faults.split() for way in ways)


_STAINLESS = _again("429 500 503 529 reset timeout") | _again("cut", _WHOLE)
"""What the clients retry that are generated as OpenAI's is: a stream that broke off is never begun anew."""
_BOTOCORE = _again("429 500 503 reset timeout")


def _like_openai(name: str, package: str, build: Callable[..., Any]) -> Provider:
    timeout = {"timeout": TIMEOUT_S}
    return Provider(name, package, build, "httpx2", "httpx2", timeout=timeout, retries=_STAINLESS)


PROVIDERS = (
    _like_openai("openai", "langchain_openai", _openai),
    _like_openai("openai-responses", "langchain_openai", _openai_responses),
    _like_openai("azure", "langchain_openai", _azure),
    _like_openai("anthropic", "langchain_anthropic", _anthropic),
    _like_openai("deepseek", "langchain_deepseek", _deepseek),
    _like_openai("xai", "langchain_xai", _xai),
    _like_openai("together", "langchain_together", _together),
    Provider(
        *("groq", "langchain_groq", _groq, "httpx", "httpx"),
        timeout={"timeout": TIMEOUT_S},
        retries=_STAINLESS,
    ),
    Provider(
        *("google", "langchain_google_genai", _google, "httpx", "aiohttp"),
        timeout={"timeout": TIMEOUT_S},
        retries=_again("429 500 503")
        | _again("reset", ("ainvoke", "astream"))
        | _again("timeout", ("invoke", "stream")),
    ),
    Provider(
        *("mistral", "langchain_mistralai", _mistral, "httpx", "httpx"),
        timeout={"timeout": 1},
        retries=_again("reset cut timeout", _WHOLE),
    ),
    Provider(
        *("fireworks", "langchain_fireworks", _fireworks, "httpx", "httpx over aiohttp"),
        timeout={"timeout": TIMEOUT_S},
        retries=_STAINLESS,
    ),
    Provider(
        *("cohere", "langchain_cohere", _cohere, "httpx", "httpx"),
        timeout={"timeout_seconds": TIMEOUT_S},
        retries=_again("429 500 503 529", _WHOLE),
        untold=frozenset({"stream"}),
    ),
    Provider(
        *("ollama", "langchain_ollama", _ollama, "httpx", "httpx"),
        timeout={"client_kwargs": {"timeout": TIMEOUT_S}},
    ),
    Provider(
        *("bedrock", "langchain_aws", _bedrock, "botocore", "botocore in threads"),
        timeout=_botocore_timeout(),
        retries=_BOTOCORE,
    ),
    Provider(
        *("bedrock-invoke", "langchain_aws", _bedrock_invoke, "botocore", "botocore in threads"),
        timeout=_botocore_timeout(),
        retries=_BOTOCORE,
    ),
    Provider(
        *("litellm", "langchain_litellm", _litellm, "httpx2", "httpx2"),
        timeout={"request_timeout": TIMEOUT_S},
        retries=_STAINLESS,
    ),
    Provider(
        *("litellm-anthropic", "langchain_litellm", _litellm_anthropic, "httpx", "httpx over aiohttp"),
        timeout={"request_timeout": TIMEOUT_S},
    ),
    Provider(
        *("huggingface", "langchain_huggingface", _huggingface, "httpx", "httpx"),
        timeout={"timeout": 1},
    ),
    Provider(
        *("nvidia", "langchain_nvidia_ai_endpoints", _nvidia, "requests", "aiohttp"),
        timeout={"timeout": TIMEOUT_S},
        polls=frozenset(_WHOLE),
    ),
)
BY_NAME = {provider.name: provider for provider in PROVIDERS}

SMALL = tuple(BY_NAME[name] for name in ("openai", "groq", "nvidia", "bedrock"))
"""One provider for each HTTP library: httpx2, httpx, requests with aiohttp, botocore."""
