"""Makes calls of given prompt and output tokens on a chat endpoint and records their usage.

Does not build jobs or graphs.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

from langchain_core.language_models.chat_models import BaseChatModel
from openai import DefaultAsyncHttpxClient

from llmsched_langgraph._jobs.ended import EndedCall
from llmsched_langgraph.lab.serve_sim.requests import CHARACTERS_PER_TOKEN

# fmt: off
_WORDS = (
    "time", "people", "water", "state", "house", "study", "group", "world", "money", "night", "point",
    "story", "issue", "hand", "area", "book", "word", "side", "right", "fact", "city", "road", "paper",
    "table", "river", "plan", "order", "place", "number", "value", "report", "market",
)
# fmt: on
_HEAD = 12
"""Number of random words at the start of a prompt, which make it unique; the other words are fixed."""


@dataclass(frozen=True, slots=True)
class Made:
    """A completed call: the requested tokens, and the tokens in the endpoint's usage."""

    stage: str
    prompt_asked: int
    output_asked: int
    prompt_tokens: int
    output_tokens: int


class Lengths(Protocol):
    """Builds prompts and requests whose calls have given numbers of tokens."""

    def nearest(self, tokens: int) -> int:
        """Return the possible prompt length nearest to `tokens`, in tokens."""

    def prompt(self, tokens: int, salt: str) -> str:
        """Return a prompt of about `tokens` tokens; `salt` makes it unique, against prefix caches."""

    def body(self, tokens: int) -> dict[str, Any]:
        """Return additional request fields for an answer of `tokens` tokens."""


class EmbeddedLengths:
    """Lengths on the embedded backend, which are exact."""

    def nearest(self, tokens: int) -> int:
        """See `Lengths.nearest`."""
        return tokens

    def prompt(self, tokens: int, salt: str) -> str:
        """Return a prompt of exactly `tokens` tokens; its first words depend on `salt`."""
        return _words(tokens, salt)[: tokens * CHARACTERS_PER_TOKEN].ljust(tokens * CHARACTERS_PER_TOKEN, ".")

    def body(self, tokens: int) -> dict[str, Any]:
        """See `Lengths.body`."""
        return {"sim": {"output_tokens": tokens}}


@dataclass(frozen=True, slots=True)
class WordLengths:
    """Lengths on any other endpoint, approximate for prompts; answers may end early.

    Attributes:
        base_tokens: tokens of a prompt without words.
        word_tokens: tokens of each word.
        ignore_eos: whether requests have `ignore_eos` and `min_tokens` (llama.cpp, vLLM), so that answers
            have the full length.
    """

    base_tokens: float
    word_tokens: float
    ignore_eos: bool = False

    def nearest(self, tokens: int) -> int:
        """See `Lengths.nearest`."""
        return round(self.base_tokens + self._words(tokens) * self.word_tokens)

    def prompt(self, tokens: int, salt: str) -> str:
        """Return a prompt of about `tokens` tokens, at least one word; its first words depend on `salt`."""
        return _words(self._words(tokens), salt)

    def _words(self, tokens: int) -> int:
        return max(1, round((tokens - self.base_tokens) / self.word_tokens))

    def body(self, tokens: int) -> dict[str, Any]:
        """See `Lengths.body`."""
        return {"ignore_eos": True, "min_tokens": tokens} if self.ignore_eos else {}


def _words(count: int, salt: str) -> str:
    head = Random(salt).choices(_WORDS, k=min(count, _HEAD))
    rest = max(count - _HEAD, 0)
    repeated = _WORDS * (rest // len(_WORDS) + 1)
    return " ".join((*head, *repeated[:rest]))


@dataclass(frozen=True, slots=True)
class Calls:
    """Makes calls to one model of one endpoint."""

    model: BaseChatModel
    lengths: Lengths

    async def make(self, stage: str, call: EndedCall, salt: str) -> Made:
        """Make a call of the recorded lengths, at least 1 token each; `salt` makes its prompt unique."""
        prompt, output = max(call.prompt_tokens or 0, 1), max(call.output_tokens or 0, 1)
        answer = await self.model.ainvoke(
            self.lengths.prompt(prompt, salt), max_tokens=output, extra_body=self.lengths.body(output)
        )
        usage = answer.usage_metadata or {"input_tokens": 0, "output_tokens": 0}
        return Made(stage, prompt, output, usage["input_tokens"], usage["output_tokens"])


class CountingClient(DefaultAsyncHttpxClient):
    """An HTTP client that counts the most requests in flight at once since `restart`."""

    def __init__(self, *, trust_env: bool) -> None:
        super().__init__(trust_env=trust_env, timeout=None)
        self._in_flight = 0
        self.peak = 0

    def restart(self) -> None:
        """Reset the peak to the present number of requests in flight."""
        self.peak = self._in_flight

    async def send(self, *args: Any, **kwargs: Any) -> Any:
        """Send a request, and count it as in flight until `send` returns."""
        self._in_flight += 1
        self.peak = max(self.peak, self._in_flight)
        try:
            return await super().send(*args, **kwargs)
        finally:
            self._in_flight -= 1
