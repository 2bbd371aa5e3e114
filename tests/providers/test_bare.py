"""Each package alone against the server: what it is answered is what it returns.

`python -m tests.providers --bare` also looks at what each package retries.
"""

from __future__ import annotations

import pytest

from .bare import WAYS, check
from .callers import Bench
from .table import KEY, PROVIDERS, Provider

INSTALLED = [provider for provider in PROVIDERS if provider.installed]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the packages' own making
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("provider", INSTALLED, ids=[provider.name for provider in INSTALLED])
def test_a_package_returns_what_the_server_said(bench: Bench, provider: Provider, way: str) -> None:
    assert check(bench, provider, way, "none") == []


def test_embeddings_are_answered(bench: Bench) -> None:
    embeddings = pytest.importorskip("langchain_openai").OpenAIEmbeddings
    bench.server.reset()
    url = f"{bench.server.url}/v1"
    model = embeddings(model="m", api_key=KEY, base_url=url, check_embedding_ctx_length=False)
    assert model.embed_documents(["one", "two"]) == [[0.5, 0.5]] * 2
    assert [exchange.ended for exchange in bench.server.exchanges] == ["answered"]
