from __future__ import annotations

import json
from random import Random
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsched_langgraph.lab.serve_sim.api_error import ApiError
from llmsched_langgraph.lab.serve_sim.replies import Reply, ToolCall, pieces, plan_reply
from llmsched_langgraph.lab.serve_sim.requests import ChatRequest, count_tokens, parse_request
from llmsched_langgraph.lab.serve_sim.schemas import example

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "unit": {"enum": ["C", "F"]},
                "days": {"type": "integer"},
            },
            "required": ["city", "unit"],
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock"}}


def request(text: str = "hello", **fields: object) -> ChatRequest:
    body = {"model": "m", "messages": [{"role": "user", "content": text}], **fields}
    return parse_request(json.dumps(body).encode(), ["m"])


def test_a_reply_depends_on_the_request_and_the_seed_only() -> None:
    assert plan_reply(request(), 1) == plan_reply(request(stream=True, temperature=0.5), 1)
    assert plan_reply(request(), 1) != plan_reply(request(), 2)
    assert plan_reply(request(), 1) != plan_reply(request("hallo"), 1)
    assert plan_reply(request(), 1) != plan_reply(request(tools=[WEATHER]), 1)


def test_lengths_scatter_around_the_stated_mean() -> None:
    lengths = [plan_reply(request(f"question {i}"), 0).output_tokens for i in range(2000)]
    assert mean(lengths) == pytest.approx(120, rel=0.05)
    assert min(lengths) < 40
    assert max(lengths) > 300


@given(st.integers(1, 400), st.integers(0, 10))
def test_made_up_text_has_exactly_its_tokens(tokens: int, seed: int) -> None:
    reply = plan_reply(request(sim={"output_tokens": tokens}), seed)
    assert reply.content is not None
    assert count_tokens(len(reply.content)) == reply.output_tokens == tokens


def test_scripted_content_is_exact_and_costs_what_the_script_says() -> None:
    reply = plan_reply(request(sim={"content": "four", "output_tokens": 500}), 0)
    assert (reply.content, reply.output_tokens, reply.finish_reason) == ("four", 500, "stop")
    assert plan_reply(request(sim={"content": "fives"}), 0).output_tokens == 2
    assert plan_reply(request(sim={"content": ""}), 0).output_tokens == 1


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_max_tokens_cuts_and_says_so(field: str) -> None:
    free = plan_reply(request(sim={"output_tokens": 10**12}, **{field: 5}), 0)
    assert (free.output_tokens, free.finish_reason, len(free.content or "")) == (5, "length", 20)
    scripted = plan_reply(request(sim={"content": "abcdefgh", "output_tokens": 4}, **{field: 2}), 0)
    assert (scripted.content, scripted.output_tokens, scripted.finish_reason) == ("abcd", 2, "length")
    whole = plan_reply(request(sim={"content": "abcdefgh"}, **{field: 2}), 0)
    assert (whole.content, whole.finish_reason) == ("abcdefgh", "stop")


def test_a_cut_tool_call_is_broken_json_as_in_life() -> None:
    script = {"tool_calls": [{"name": "f", "arguments": {"long": "x" * 40}}], "output_tokens": 100}
    reply = plan_reply(request(sim=script, max_tokens=50), 0)
    assert (reply.finish_reason, reply.output_tokens) == ("length", 50)
    with pytest.raises(json.JSONDecodeError):
        json.loads(reply.tool_calls[0].arguments)


def test_a_required_tool_is_called_with_valid_arguments() -> None:
    named: set[str] = set()
    for seed in range(40):
        reply = plan_reply(request(tools=[WEATHER, CLOCK], tool_choice="required"), seed)
        (call,) = reply.tool_calls
        named.add(call.name)
        arguments = json.loads(call.arguments)
        assert (reply.content, reply.finish_reason) == (None, "tool_calls")
        if call.name == "weather":
            assert arguments["unit"] in ("C", "F")
            assert isinstance(arguments["city"], str)
    assert named == {"weather", "clock"}


def test_a_named_tool_is_called_and_auto_answers_in_words() -> None:
    choice = {"type": "function", "function": {"name": "clock"}}
    assert plan_reply(request(tools=[WEATHER, CLOCK], tool_choice=choice), 0).tool_calls[0].arguments == "{}"
    assert plan_reply(request(tools=[WEATHER, CLOCK], tool_choice="auto"), 0).tool_calls == ()


def test_a_script_that_gives_only_tokens_keeps_the_kind_of_the_reply() -> None:
    forced = plan_reply(request(tools=[CLOCK], tool_choice="required", sim={"output_tokens": 77}), 0)
    assert (forced.tool_calls[0].name, forced.output_tokens) == ("clock", 77)
    schema = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"const": 4}}}
    shaped = plan_reply(request(response_format=schema, sim={"output_tokens": 78}), 0)
    assert (shaped.content, shaped.output_tokens) == ("4", 78)


def test_json_object_gives_an_object() -> None:
    reply = plan_reply(request(response_format={"type": "json_object"}), 0)
    assert isinstance(json.loads(reply.content or ""), dict)


@given(
    st.one_of(st.none(), st.text(max_size=30)),
    st.lists(st.text(max_size=30), max_size=3),
    st.integers(1, 40),
    st.data(),
)
def test_pieces_add_up_to_the_reply_however_it_is_cut(
    content: str | None, arguments: list[str], tokens: int, data: st.DataObject
) -> None:
    calls = tuple(ToolCall(f"id{i}", "f", text) for i, text in enumerate(arguments))
    reply = Reply("d", content, calls, tokens, "stop")
    cuts = [*sorted(data.draw(st.sets(st.integers(1, tokens)))), tokens]
    seen: dict[int | None, str] = {}
    firsts = []
    sent = 0
    for cut in dict.fromkeys(cuts):
        for piece in pieces(reply, sent, cut):
            assert piece.first == (piece.call is not None and piece.call not in seen)
            seen[piece.call] = seen.get(piece.call, "") + piece.text
            firsts += [piece.call] if piece.first else []
        sent = cut
    assert seen.get(None, "") == (content or "")
    assert [seen[i] for i in range(len(calls))] == arguments
    assert firsts == list(range(len(calls)))


def words(rng: Random) -> str:
    return "word" * rng.randint(1, 3)


@pytest.mark.parametrize("seed", range(20))
def test_schemas_are_satisfied(seed: int) -> None:
    schema = {
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "value": {"type": "integer", "minimum": 3, "exclusiveMaximum": 6},
                    "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
                },
                "required": ["value", "next"],
            }
        },
        "type": "object",
        "properties": {
            "head": {"$ref": "#/$defs/node"},
            "kind": {"enum": ["a", "b"]},
            "fixed": {"const": {"k": 1}},
            "share": {"type": "number", "minimum": 0, "maximum": 1},
            "tags": {"type": "array", "items": {"enum": [1, 2, 3]}, "minItems": 2, "uniqueItems": True},
            "maybe": {"type": ["string", "null"], "minLength": 20, "maxLength": 25},
            "day": {"type": "string", "format": "date"},
            "both": {"allOf": [{"properties": {"x": {"type": "boolean"}}}, {"required": ["y"]}]},
            "even": {"type": "integer", "multipleOf": 2, "maximum": -1},
            "pair": {"type": "array", "prefixItems": [{"const": 1}, {"const": "z"}], "items": False},
            "nothing": {"type": "null"},
            "anything": {},
        },
        "required": ["head", "extra"],
    }
    value = example(schema, Random(seed), words)
    assert isinstance(value, dict)
    node, depth = value["head"], 0
    while node is not None:
        assert node["value"] in (3, 4, 5)
        node, depth = node["next"], depth + 1
    assert depth < 10
    assert value["kind"] in ("a", "b")
    assert value["fixed"] == {"k": 1}
    assert 0 <= value["share"] <= 1
    assert len(value["tags"]) == len(set(value["tags"])) >= 2
    assert 20 <= len(value["maybe"]) <= 25
    assert value["day"].count("-") == 2
    assert isinstance(value["both"]["x"], bool)
    assert "y" in value["both"]
    assert value["even"] % 2 == 0
    assert value["even"] <= -1
    assert value["pair"] == [1, "z"]
    assert value["nothing"] is None
    assert "extra" in value


@pytest.mark.parametrize(
    ("fields", "status", "complaint"),
    [
        ({"model": "x"}, 404, "'x' does not exist; this server has m"),
        ({"model": None}, 400, "model must name"),
        ({"messages": []}, 400, "at least one message"),
        ({"messages": None}, 400, "at least one message"),
        ({"messages": ["hi"]}, 400, "messages\\[0\\] must be an object"),
        ({"messages": [{"role": "boss", "content": "hi"}]}, 400, "role must be one of"),
        ({"messages": [{"role": "user", "content": 3}]}, 400, "content must be"),
        ({"messages": [{"role": "user", "content": "x" * 600_000}]}, 400, "context is 131072 tokens"),
        ({"max_tokens": 131_072}, 400, "lower max_tokens"),
        ({"max_tokens": 0}, 400, "max_tokens must be an integer of 1 or more, not 0"),
        ({"n": 2}, 400, "n must be 1"),
        ({"stream": "yes"}, 400, "stream must be true or false"),
        ({"stream_options": []}, None, ""),
        ({"stream_options": [1]}, 400, "stream_options must be an object"),
        ({"tools": {}}, 400, "tools must be a list, not {}"),
        ({"tools": [{"type": "custom"}]}, 400, "tools\\[0\\] must be"),
        ({"tool_choice": "required"}, 400, "needs tools"),
        ({"tool_choice": "perhaps"}, 400, "tool_choice must be"),
        ({"tool_choice": {"function": {"name": "f"}}}, 400, "'f', which is not among"),
        ({"response_format": {"type": "xml"}}, 400, "response_format must be"),
        ({"sim": 3}, 400, "sim: write an object"),
    ],
)
def test_bad_requests_are_told_what_is_wrong(
    fields: dict[str, object], status: int | None, complaint: str
) -> None:
    if status is None:
        request(**fields)
        return
    with pytest.raises(ApiError, match=complaint) as caught:
        request(**fields)
    assert caught.value.status == status


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(ApiError, match="JSON") as caught:
        parse_request(body, ["m"])
    assert caught.value.status == 400


def test_prompts_are_counted_with_their_tools_and_calls() -> None:
    assert request("x" * 9).prompt_tokens == 3
    assert request("").prompt_tokens == 1
    assert request("x" * 9, tools=[CLOCK]).prompt_tokens > 3
