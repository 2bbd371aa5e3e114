"""The one chat model of all graphs here: what it answers is written down, by what stands in its prompt."""

from __future__ import annotations

import asyncio
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import BaseModel

Script = Mapping[tuple[str, ...], Any]


def uses(name: str, /, **arguments: Any) -> dict[str, Any]:
    """An answer, or one of several in a list: the model calls this tool."""
    return {"name": name, "args": arguments}


class Calls:
    """Calls of every scripted model in this process: how many, and by which nodes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._records: list[list[str]] = []
        self.total = 0
        self.forbidden = False

    def note(self, metadata: Mapping[str, Any] | None) -> None:
        """A call begins."""
        if self.forbidden:
            raise AssertionError("a model was called while no model may be called")
        path = node_path((metadata or {}).get("langgraph_checkpoint_ns", ""))
        with self._lock:
            self.total += 1
            for record in self._records:
                record.append(path)

    @contextmanager
    def none_allowed(self) -> Iterator[None]:
        """Any call of any scripted model fails meanwhile."""
        self.forbidden = True
        try:
            yield
        finally:
            self.forbidden = False

    @contextmanager
    def recorded(self) -> Iterator[list[str]]:
        """The path of the node of each call made meanwhile."""
        record: list[str] = []
        with self._lock:
            self._records.append(record)
        try:
            yield record
        finally:
            with self._lock:
                self._records = [other for other in self._records if other is not record]


CALLS = Calls()


def node_path(checkpoint_ns: str) -> str:
    """`outer/inner` of a namespace `outer:id|1|inner:id`; the numbers count subgraphs called by one node."""
    parts = [part.partition(":")[0] for part in checkpoint_ns.split("|")]
    return "/".join(part for part in parts if not part.isdigit())


class ScriptedModel(BaseChatModel):
    """Answers by its script, with no memory: the same prompt gets the same answer, in any run, at any time.

    A key of the script is the words that must all stand in the prompt; of the keys that fit, the last one
    counts, so that a script reads as the story of a run. A value is a text, `uses(...)`, a list of those, or
    an instance of a schema, which is given as the call of a tool of that name or, where the provider's own
    format was asked for, as JSON.
    """

    script: Script
    model: str = "scripted"

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        CALLS.note(run_manager.metadata if run_manager else None)
        return self._answer(messages, kwargs)

    async def _agenerate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        CALLS.note(run_manager.metadata if run_manager else None)
        for _ in range(3):  # a few turns of the loop stand for the time that a request takes
            await asyncio.sleep(0)
        return self._answer(messages, kwargs)

    def get_num_tokens(self, text: str) -> int:
        return len(text.split())

    def bind_tools(self, tools: Sequence[Any], *, tool_choice: str | None = None, **kwargs: Any) -> Any:
        given = [convert_to_openai_tool(tool) for tool in tools]
        return self.bind(tools=given, tool_choice=tool_choice, **kwargs)

    def _answer(self, messages: list[BaseMessage], options: dict[str, Any]) -> ChatResult:
        prompt = "\n".join(_told(message) for message in messages)
        fitting = [key for key in self.script if all(word in prompt for word in key)]
        assert fitting, f"the script says nothing to this prompt:\n{prompt}"
        answer = self.script[fitting[-1]]
        if isinstance(answer, BaseModel):
            if options.get("response_format"):
                answer = answer.model_dump_json()
            else:
                answer = uses(type(answer).__name__, **answer.model_dump())
        message = AIMessage(answer) if isinstance(answer, str) else _calling(answer, prompt, options)
        return ChatResult(generations=[ChatGeneration(message=message)])


def _told(message: BaseMessage) -> str:
    called = "".join(f" [calls {call['name']}]" for call in getattr(message, "tool_calls", ()))
    return f"{message.type}: {message.text}{called}"


def _calling(answer: Any, prompt: str, options: dict[str, Any]) -> AIMessage:
    bound = {tool["function"]["name"] for tool in options.get("tools", ())}
    calls = answer if isinstance(answer, list) else [answer]
    assert bound.issuperset(call["name"] for call in calls), f"{calls} but bound are {sorted(bound)}"
    # Not the same twice in one conversation, and the same in each run.
    stem = zlib.crc32(prompt.encode())
    return AIMessage(
        "", tool_calls=[{**call, "id": f"{call['name']}-{stem}-{n}"} for n, call in enumerate(calls)]
    )
