"""Reads a call's token counts from a model's answer.

Acquires no slots. The model's own counts take precedence; text is counted only without them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatResult, Generation, LLMResult

from llmsched_langgraph._jobs.calls import UNKNOWN_USAGE, Usage
from llmsched_langgraph._tokens import count_tokens, estimate_tokens


def usage_of_result(result: ChatResult | LLMResult | str, asked: Sequence[BaseMessage | str]) -> Usage:
    """Return the token counts of a complete answer; unknown if it lacks LangChain's structure."""
    try:
        tally = UsageMeter(asked)
        if isinstance(result, str):
            tally.see(Generation(text=result))
            return tally.usage()
        for generations in result.generations:
            for generation in generations if isinstance(generations, list) else [generations]:
                tally.see(generation)
        return tally.usage((result.llm_output or {}).get("token_usage"))
    except Exception:
        return UNKNOWN_USAGE  # LangChain reports invalid answers


class UsageMeter:
    """Sums the tokens of an answer piece by piece. `asked` is the input that it answers."""

    def __init__(self, asked: Sequence[BaseMessage | str]) -> None:
        self._asked = asked
        self._prompt_tokens = 0
        self._output_tokens = 0
        self._cached_tokens = 0
        self._text: list[str] = []

    def see(self, piece: Any) -> None:
        """Add a generation, a chunk of one, or an event of the newer streaming protocol."""
        try:
            self._see(piece)
        except Exception:
            pass  # LangChain reports invalid pieces

    def _see(self, piece: Any) -> None:
        message = getattr(piece, "message", None)
        usage = piece.get("usage") if isinstance(piece, dict) else getattr(message, "usage_metadata", None)
        if usage:
            # Providers send the prompt's tokens once, with the first piece or the last.
            self._prompt_tokens += usage.get("input_tokens") or 0
            self._output_tokens += usage.get("output_tokens") or 0
            details = usage.get("input_token_details")
            if details:
                self._cached_tokens += details.get("cache_read") or 0
        text = getattr(piece, "text", "")
        if isinstance(text, str):
            self._text.append(text)

    def usage(self, told: dict[str, Any] | None = None) -> Usage:
        """Return the token counts: of the pieces, else those in `told`, else counted from text."""
        told = told or {}
        prompt_tokens = self._prompt_tokens or told.get("prompt_tokens") or sum(map(_count, self._asked))
        output_tokens = (
            self._output_tokens or told.get("completion_tokens") or count_tokens("".join(self._text))
        )
        return Usage(prompt_tokens, output_tokens, self._cached_tokens or None)


BLOCK_TOKENS = 1000
"""Estimated tokens of an image, or of other content that is not text."""

MARKUP_TOKENS = 4
"""Estimated tokens of a message in addition to its text."""


def prompt_tokens_of(asked: Any, options: Mapping[str, Any]) -> int | None:
    """Return an estimate of the prompt tokens of a call from its input and its tools; None if unknown."""
    try:
        tools = options.get("tools") or options.get("functions") or ()
        return sum(_count(text) + MARKUP_TOKENS for text in asked) + sum(
            estimate_tokens(str(tool)) for tool in tools
        )
    except Exception:
        return None  # LangChain reports invalid input


def _count(asked: BaseMessage | str) -> int:
    """Return the tokens of one message or text."""
    content = asked if isinstance(asked, str) else asked.content
    if isinstance(content, str):
        return count_tokens(content)
    tokens = 0
    for block in content:
        text = block if isinstance(block, str) else block.get("text")
        tokens += count_tokens(text) if isinstance(text, str) else BLOCK_TOKENS
    return tokens
