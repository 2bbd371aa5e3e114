"""Knows how to read a chat model's answer: the tokens that a call used.

Does not know slots. The model's own figures come first; text is counted only where it gives none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult

from llmsched_langgraph.dag.progress import Usage
from llmsched_langgraph.tokens import count_tokens


def usage_of_result(result: ChatResult, messages: Sequence[BaseMessage]) -> Usage:
    """Tokens of a whole answer to `messages`."""
    tally = Tally(messages)
    for generation in result.generations:
        tally.see_message(generation.message)
    return tally.usage()


class Tally:
    """Adds up the tokens of a streamed answer to `messages`, chunk by chunk."""

    def __init__(self, messages: Sequence[BaseMessage]) -> None:
        self._messages = messages
        self._prompt_tokens = 0
        self._output_tokens = 0
        self._text: list[str] = []

    def see(self, chunk: Any) -> None:
        """Take in one chunk, or one event of the newer streaming protocol."""
        if isinstance(chunk, ChatGenerationChunk):
            self.see_message(chunk.message)
        elif isinstance(chunk, dict):
            usage = chunk.get("usage") or {}
            self._prompt_tokens += usage.get("input_tokens") or 0
            self._output_tokens += usage.get("output_tokens") or 0

    def see_message(self, message: BaseMessage) -> None:
        """Take in a message or a piece of one."""
        usage = getattr(message, "usage_metadata", None)
        if usage:
            # Providers send the prompt's tokens with the first piece or the last, never twice.
            self._prompt_tokens += usage.get("input_tokens") or 0
            self._output_tokens += usage.get("output_tokens") or 0
        if isinstance(message.content, str):
            self._text.append(message.content)

    def usage(self) -> Usage:
        """The call's tokens so far."""
        prompt_tokens = self._prompt_tokens or sum(count_tokens(_text(item)) for item in self._messages)
        output_tokens = self._output_tokens or count_tokens("".join(self._text))
        return Usage(prompt_tokens, output_tokens)


def _text(message: Any) -> str:
    content = getattr(message, "content", "")
    return content if isinstance(content, str) else str(content)
