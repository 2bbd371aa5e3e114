"""Knows how to read a model's answer: the tokens that a call used.

Does not know slots. The model's own figures come first; text is counted only where it gives none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatResult, Generation, LLMResult

from llmsched_langgraph._jobs.calls import UNKNOWN_USAGE, Usage
from llmsched_langgraph._tokens import count_tokens


def usage_of_result(result: ChatResult | LLMResult | str, asked: Sequence[BaseMessage | str]) -> Usage:
    """Tokens of a whole answer to what was asked; unknown if it has not the shape that LangChain's have."""
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
        return UNKNOWN_USAGE  # whoever made such an answer hears of it from LangChain, not from here


class UsageMeter:
    """Adds up the tokens of an answer, piece by piece; `asked` is what it answers."""

    def __init__(self, asked: Sequence[BaseMessage | str]) -> None:
        self._asked = asked
        self._prompt_tokens = 0
        self._output_tokens = 0
        self._text: list[str] = []

    def see(self, piece: Any) -> None:
        """Take in a generation, a chunk of one, or an event of the newer streaming protocol."""
        try:
            self._see(piece)
        except Exception:
            pass  # whoever made such a piece hears of it from LangChain, not from here

    def _see(self, piece: Any) -> None:
        message = getattr(piece, "message", None)
        usage = piece.get("usage") if isinstance(piece, dict) else getattr(message, "usage_metadata", None)
        if usage:
            # Providers send the prompt's tokens with the first piece or the last, never twice.
            self._prompt_tokens += usage.get("input_tokens") or 0
            self._output_tokens += usage.get("output_tokens") or 0
        text = getattr(piece, "text", "")
        if isinstance(text, str):
            self._text.append(text)

    def usage(self, told: dict[str, Any] | None = None) -> Usage:
        """The call's tokens: as the pieces say, else as the model told with the whole, else counted."""
        told = told or {}
        prompt_tokens = self._prompt_tokens or told.get("prompt_tokens") or sum(map(_count, self._asked))
        output_tokens = (
            self._output_tokens or told.get("completion_tokens") or count_tokens("".join(self._text))
        )
        return Usage(prompt_tokens, output_tokens)


def _count(asked: BaseMessage | str) -> int:
    content = asked if isinstance(asked, str) else asked.content
    return count_tokens(content if isinstance(content, str) else str(content))
