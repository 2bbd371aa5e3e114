from __future__ import annotations

import pytest

from llmsched_langgraph.lab.serve_sim.api_error import ApiError
from llmsched_langgraph.lab.serve_sim.scripts import UNSCRIPTED, ScriptedCall, Turn, scripted_turn

USER = {"role": "user", "content": "go"}
ASSISTANT = {"role": "assistant", "content": "done"}
TOOL = {"role": "tool", "content": "42", "tool_call_id": "x"}


def user(text: str) -> dict[str, object]:
    return {"role": "user", "content": text}


def test_without_a_script_the_reply_is_the_servers_own() -> None:
    assert scripted_turn(None, [USER, ASSISTANT, USER]) == UNSCRIPTED


def test_one_turn_in_a_message() -> None:
    messages = [user('Hi <sim>{"content": "yes", "output_tokens": 7}</sim> there')]
    assert scripted_turn(None, messages) == Turn(7, "yes")


def test_a_directive_may_stand_in_a_part_of_any_message() -> None:
    part = {"type": "text", "text": '<sim>\n{"output_tokens": 3}\n</sim>'}
    system: dict[str, object] = {"role": "system", "content": [{"type": "image_url"}, part]}
    assert scripted_turn(None, [system, USER]) == Turn(3)


def test_turns_are_counted_from_the_message_with_the_directive() -> None:
    start = user(
        '<sim>{"turns": [{"tool_calls": [{"name": "f", "arguments": {"x": 1}}]}, {"content": "b"}]}</sim>'
    )
    assert scripted_turn(None, [ASSISTANT, start]) == Turn(tool_calls=(ScriptedCall("f", {"x": 1}),))
    assert scripted_turn(None, [ASSISTANT, start, ASSISTANT, TOOL]) == Turn(content="b")
    assert scripted_turn(None, [start, ASSISTANT, TOOL, ASSISTANT, TOOL]) == UNSCRIPTED


def test_the_last_directive_wins() -> None:
    messages = [
        user('<sim>{"content": "a"}</sim>'),
        user('<sim>{"content": "b"}</sim><sim>{"content": "c"}</sim>'),
    ]
    assert scripted_turn(None, [*messages, USER]).content == "c"


def test_the_field_wins_and_counts_from_the_last_user_message() -> None:
    sim = {"turns": [{"content": "first"}, {"content": "second"}]}
    messages = [user('<sim>{"content": "directive"}</sim>'), ASSISTANT, USER]
    assert scripted_turn(sim, messages).content == "first"
    assert scripted_turn(sim, [*messages, ASSISTANT, TOOL]).content == "second"
    assert scripted_turn(sim, [ASSISTANT]).content == "second"


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("{", "messages\\[0\\] is not JSON"),
        ("[]", "write an object"),
        ('{"turns": {}}', "must be a list"),
        ('{"turns": [], "content": "x"}', "stand alone"),
        ('{"turns": [1]}', "turns\\[0\\]: a turn must be an object"),
        ('{"outputtokens": 1}', "unknown key 'outputtokens'"),
        ('{"output_tokens": 0}', "output_tokens must be an integer"),
        ('{"output_tokens": true}', "output_tokens must be an integer"),
        ('{"content": 1}', "content must be a string"),
        ('{"tool_calls": {}, "content": "x"}', "tool_calls must be a list, not {}"),
        ('{"tool_calls": [{"name": ""}]}', "tool_calls\\[0\\]: name"),
        ('{"tool_calls": [{"name": "f", "arguments": "{}"}]}', "arguments must be an object"),
        ('{"tool_calls": [{"name": "f", "args": {}}]}', "write an object with name and arguments"),
    ],
)
def test_a_malformed_script_is_named(script: str, complaint: str) -> None:
    with pytest.raises(ApiError, match=complaint) as caught:
        scripted_turn(None, [user(f"<sim>{script}</sim>")])
    assert caught.value.status == 400
