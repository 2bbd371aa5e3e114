"""A model that does what the applications' prompts ask for, correctly, as a pure function of the prompt."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from typing import Any

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field, PrivateAttr

Spoil = Callable[[str, AIMessage], AIMessage | str | None]


def calls(name: str, /, **arguments: Any) -> AIMessage:
    """An answer that calls a tool."""
    return AIMessage("", tool_calls=[{"name": name, "args": arguments, "id": f"call-{name}"}])


def unreadable(name: str) -> AIMessage:
    """An answer that calls a tool with what is no JSON."""
    bad = {"name": name, "args": '{"tasks": [', "id": "call-bad", "error": "not JSON"}
    return AIMessage("", invalid_tool_calls=[bad])


class CapableModel(BaseChatModel):
    """Answers correctly, but for what `spoil` makes of an answer: another one, or None to keep it."""

    spoil: Spoil | None = Field(default=None, exclude=True)
    model: str = "capable"
    _lock: Any = PrivateAttr(default_factory=threading.Lock)
    _prompts: list[str] = PrivateAttr(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "capable"

    @property
    def prompts(self) -> list[str]:
        """All that it was asked."""
        return self._prompts

    def asked(self, start: str) -> list[str]:
        """The prompts that begin so."""
        return [prompt for prompt in self._prompts if prompt.startswith(start)]

    def bind_tools(self, tools: Any, *, tool_choice: Any = None, **kwargs: Any) -> Any:
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], **kwargs)

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ):
        prompt = messages[-1].text if len(messages) == 1 else "\n".join(m.text for m in messages)
        with self._lock:
            self._prompts.append(prompt)
        answer: Any = self._answer(messages, prompt)
        if self.spoil is not None:
            spoiled = self.spoil(prompt, answer)
            answer = answer if spoiled is None else spoiled
        message = AIMessage(answer) if isinstance(answer, str) else answer.model_copy()
        return ChatResult(generations=[ChatGeneration(message=message)])

    async def _agenerate(self, *args: Any, **kwargs: Any):
        return self._generate(*args, **kwargs)

    def _answer(self, messages: list[BaseMessage], prompt: str) -> AIMessage:
        for start, skill in SKILLS.items():
            if prompt.startswith(start):
                said = skill(messages if start == AGENT else prompt)
                return AIMessage(said) if isinstance(said, str) else said
        raise AssertionError(f"nobody taught it this prompt:\n{prompt}")


# -- sequence sorting ------------------------------------------------------------------------


def numbers(prompt: str, label: str = "Input") -> list[int]:
    return json.loads(re.search(rf"^{label}: (\[.*\])$", prompt, re.MULTILINE).group(1))


def split(prompt: str) -> str:
    given, size = numbers(prompt), int(re.search(r"at most (\d+) numbers", prompt).group(1))
    parts = [given[at : at + size] for at in range(0, len(given), size)]
    return json.dumps({f"List {n}": part for n, part in enumerate(parts, 1)})


def merge_lists(prompt: str) -> str:
    return str(sorted(numbers(prompt, "List 1") + numbers(prompt, "List 2")))


# -- document merging ------------------------------------------------------------------------


def sentences(text: str) -> list[str]:
    return [sentence.strip() for sentence in re.findall(r"[^.]+\.", text)]


def documents(prompt: str) -> list[str]:
    texts = re.findall(r"<Doc\d+>\n(.*?)\n</Doc\d+>", prompt, re.DOTALL)
    return list(dict.fromkeys(sentence for text in texts for sentence in sentences(text)))


def merge_documents(prompt: str) -> str:
    return f"<Merged>{' '.join(documents(prompt))}</Merged>"


def judge(prompt: str) -> str:
    facts, said = documents(prompt), sentences(re.search(r"<S>\n(.*)\n</S>", prompt, re.DOTALL).group(1))
    once = 10 * len(set(said)) / max(len(said), 1)
    kept = 10 * len(set(said) & set(facts)) / len(facts)
    return f"<Redundancy>{once:.2f}</Redundancy><Retained>{kept:.2f}</Retained>"


# -- code generation -------------------------------------------------------------------------

CODE = {
    "median": """
def median(numbers):
    numbers.sort()
    return numbers[len(numbers) // 2]
# then
def median(numbers):
    from statistics import median
    return median(numbers)
""",
    "roman": """
def roman(number):
    return "I" * number
# then
def roman(number):
    text = ""
    values = 1000, 900, 500, 400, 100, 90, 50, 40, 10, 9, 5, 4, 1
    for value, sign in zip(values, "M CM D CD C XC L XL X IX V IV I".split()):
        text += sign * (number // value)
        number %= value
    return text
""",
    "balanced": """
def balanced(text):
    return text.count("(") == text.count(")")
# then
def balanced(text):
    closing = []
    for sign in text:
        if sign in "([{":
            closing.append(")]}"["([{".index(sign)])
        elif sign in ")]}" and (not closing or closing.pop() != sign):
            return False
    return not closing
""",
    "runs": """
def runs(text)
    return []
# then
def runs(text):
    from itertools import groupby
    return [(sign, len(list(run))) for sign, run in groupby(text)]
""",
}
"""For each function a first attempt, which fails, and one that passes."""


def write_code(prompt: str) -> str:
    first, right = CODE[re.search(r"`def (\w+)", prompt).group(1)].split("# then\n")
    return f"Here it is:\n```python\n{right if 'Your last attempt failed' in prompt else first}\n```"


# -- web search ------------------------------------------------------------------------------

AGENT = "Answer the question. Look things up"
STEPS: dict[str, tuple[list[AIMessage], str]] = {
    "engineer of Vell Light": (
        [calls("search", query="Vell Light engineer"), calls("read_page", title="Oda Brandt")],
        r"born in (\w+)",
    ),
    "only railway": (
        [
            calls("search", query="the only railway of the islands"),
            calls("search", query="ferry to Henna"),
            calls("read_page", title="Ferries of Morvane"),
        ],
        r"Tolby and Henna and takes (\d+ minutes)",
    ),
    "barley cheese": (
        [calls("search", query="monks barley cheese"), calls("read_page", title="Little Sorrel")],
        r"librarian is ([\w ]+)",
    ),
    "What colour": ([calls("read_page", title="The Petrel")], r"painted (\w+)"),
}
"""For each question the steps, and where in what they brought the answer stands."""


def search_step(messages: list[BaseMessage]) -> AIMessage | str:
    question = next(message.text for message in messages if message.type == "human")
    steps, where = next(plan for words, plan in STEPS.items() if words in question)
    brought = [message.text for message in messages if message.type == "tool"]
    brought = [text for text in brought if not text.startswith(("Error", "Nothing was", "There is no"))]
    if len(brought) < len(steps):
        step = steps[len(brought)].model_copy(deep=True)
        step.tool_calls[0]["id"] = f"step-{len(brought)}"
        return step
    found = re.search(where, " ".join(brought))
    return f"It is {found.group(1)}." if found else "I do not know."


# -- task automation -------------------------------------------------------------------------


def task(number: int, tool: str, given: str | int) -> dict[str, Any]:
    if isinstance(given, int):
        return {"id": number, "tool": tool, "input": f"<output-{given}>", "after": [given]}
    return {"id": number, "tool": tool, "input": given, "after": []}


NOTE = "Anna brought 12 crates, Bert 30, and Carla 18."
FERRIES = "Old ferries never sail on Sundays"
HEIGHTS = "Tolby 74, Vell 37, Ash 112"
TASKS = {
    NOTE: [
        task(1, "find_numbers", NOTE),
        task(2, "total", 1),
        task(3, "average", 1),
        task(4, "find_names", NOTE),
        task(5, "join", 4),
    ],
    FERRIES: [task(1, "capitals", FERRIES), task(2, "split_words", FERRIES), task(3, "count", 2)],
    HEIGHTS: [
        task(1, "find_numbers", HEIGHTS),
        task(2, "largest", 1),
        task(3, "find_names", HEIGHTS),
        task(4, "join", 3),
    ],
}


def plan_tasks(prompt: str) -> AIMessage:
    return calls("Plan", tasks=next(tasks for words, tasks in TASKS.items() if words in prompt))


def answer_from_results(prompt: str) -> str:
    """What the tasks gave that no other task took."""
    results = re.findall(r"^(\w+)\((.*)\) = (.*)$", prompt.partition("Results:\n")[2], re.MULTILINE)
    taken = {int(number) for _, given, _ in results for number in re.findall(r"^<output-(\d+)>$", given)}
    last = [f"{tool}: {value}" for n, (tool, _, value) in enumerate(results, 1) if n not in taken]
    return "; ".join(last) or "That cannot be done."


# -- LLMCompiler -----------------------------------------------------------------------------


def call(number: int, tool: str, argument: str) -> dict[str, Any]:
    return {"number": number, "tool": tool, "argument": argument}


PLANS: dict[str, list[list[dict[str, Any]]]] = {
    "How many times as high": [
        [
            call(1, "look_up", "height of Vell Light"),
            call(2, "look_up", "height of Mount Ash"),
            call(3, "calculate", "$2 / $1"),
        ]
    ],
    "both ferries carry": [
        [
            call(1, "look_up", "passengers of the Petrel"),
            call(2, "look_up", "crossings of the Petrel in a year"),
            call(3, "look_up", "passengers of the Kittiwake"),
            call(4, "look_up", "crossings of the Kittiwake in a year"),
            call(5, "calculate", "$1 * $2"),
            call(6, "calculate", "$3 * $4"),
            call(7, "calculate", "$5 + $6"),
        ]
    ],
    "big church": [
        [
            call(1, "look_up", "height of the church of Tolby"),
            call(2, "look_up", "height of Vell Light"),
            call(3, "calculate", "$1 - $2"),
        ],
        [call(4, "look_up", "height of Tolby Cathedral"), call(5, "calculate", "$4 - $2")],
    ],
    "What share": [
        [
            call(1, "look_up", "population of Karsund"),
            call(2, "look_up", "population of Morvane"),
            call(3, "calculate", "100 * $1 / $2"),
        ]
    ],
}
"""For each question the plans, the second one for when the first did not do."""


def plan_calls(prompt: str) -> AIMessage:
    plans = next(plans for words, plans in PLANS.items() if words in prompt)
    return calls("Calls", calls=plans[min(prompt.count("Not answered yet"), len(plans) - 1)])


def join_results(prompt: str) -> AIMessage:
    last = prompt.rstrip().splitlines()[-1]
    found = re.search(r"= calculate\(.*\) = (-?[\d.]+)$", last)
    if found is None:
        return calls("Verdict", answer="", missing="Look up what the table has.")
    return calls("Verdict", answer=f"It is {found.group(1)}.")


SKILLS: dict[str, Callable[[Any], AIMessage | str]] = {
    "Split the following list": split,
    "Sort the following list": lambda prompt: f"Of course: {sorted(numbers(prompt))}",
    "Merge the following two sorted lists": merge_lists,
    "The second list should be": lambda prompt: str(sorted(numbers(prompt))),
    "Merge the following": merge_documents,
    "Below are": merge_documents,
    "The document <S> should merge": judge,
    "Write a Python function": write_code,
    AGENT: search_step,
    "Plan how to do what the user asks": plan_tasks,
    "Answer the request from": answer_from_results,
    "Plan the tool calls that answer": plan_calls,
    "Decide whether the results": join_results,
}
"""What it can do, by how the prompt begins."""
