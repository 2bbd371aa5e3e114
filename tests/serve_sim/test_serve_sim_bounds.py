"""Requests that ask for too much: a clear 400 or a bounded reply, and the server goes on."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from random import Random
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsched_langgraph.lab.serve_sim import schemas
from llmsched_langgraph.lab.serve_sim.api_error import ApiError
from llmsched_langgraph.lab.serve_sim.replies import plan_reply
from llmsched_langgraph.lab.serve_sim.requests import CHARACTERS_PER_TOKEN, CONTEXT_TOKENS, parse_request
from llmsched_langgraph.lab.serve_sim.schemas import MOST_CHARACTERS, SchemaError, example
from llmsched_langgraph.lab.serve_sim.server import RunningBackend

Schema = dict[str, object]

ROOT: Schema = {"$ref": "#"}
TOO_LONG = "for a value of more than 524,288 characters; ask for less"
TOO_MUCH_WORK = "too much work: use fewer references, branches, properties or items"


def layers(layer: Callable[[Schema], Schema], times: int = 20) -> Schema:
    """Definitions each of which names the next one ten times: ten to the power of twenty in all."""
    defs = {str(n): layer({"$ref": f"#/$defs/{n + 1}"}) for n in range(times)}
    return {"$defs": defs, "$ref": "#/$defs/0"}


def nested(schema: Schema, times: int, **more: object) -> Schema:
    for _ in range(times):
        schema = {"type": "array", "items": schema, **more}
    return schema


TOO_MUCH: dict[str, Schema] = {
    "items": {"type": "array", "minItems": 10**9, "items": {"type": "integer"}},
    "items of items": nested({"type": "integer"}, 5, minItems=100),
    "unique items": {"type": "array", "minItems": 10**9, "uniqueItems": True},
    "prefix items": layers(lambda ref: {"prefixItems": [ref] * 10}),
    "letters": {"type": "string", "minLength": 10**9},
    "letters of items": {"type": "array", "minItems": 1000, "items": {"type": "string", "minLength": 10**5}},
    "letters at most": {"type": "string", "minLength": 10**9, "maxLength": 5},
    "constants": {"type": "array", "minItems": 1000, "items": {"const": "x" * 100_000}},
    "enumerated": {"type": "array", "minItems": 1000, "items": {"enum": [["x"] * 30_000]}},
    "digits": {"type": "array", "minItems": 20_000, "items": {"type": "integer", "minimum": 10**299}},
    "names": {"type": "object", "required": ["x" * 1000 + str(n) for n in range(1000)]},
    "properties": layers(
        lambda ref: {"required": list("abcdefghij"), "properties": dict.fromkeys("abcdefghij", ref)}
    ),
    "a tree without leaves": {"required": ["a", "b"], "properties": {"a": ROOT, "b": ROOT}},
    "a list of itself": {"anyOf": [{"type": "array", "items": ROOT, "minItems": 2}]},
    "all of itself": {"allOf": [ROOT, ROOT]},
    "all of all": layers(lambda ref: {"allOf": [ref] * 10}),
    "types": {"type": "array", "minItems": 50_000, "items": {"type": ["null"] * 30_000 + ["boolean"]}},
    "a long reference": {"type": "array", "minItems": 5000, "items": {"$ref": "#" + "/a" * 100_000}},
    "optional properties of items": {
        "type": "array",
        "minItems": 5000,
        "items": {"type": "object", "properties": {f"n{n}": {} for n in range(6000)}},
    },
    "merged properties of items": {
        "type": "array",
        "minItems": 5000,
        "items": {"allOf": [{"properties": {f"n{n}": {} for n in range(6000)}}, {"properties": {"a": {}}}]},
    },
}
BOUNDED: dict[str, Schema] = {
    "a circle": ROOT,
    "a circle of two": {
        "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
        "$ref": "#/$defs/a",
    },
    "any of itself": {"anyOf": [ROOT, ROOT]},
    "any of any": layers(lambda ref: {"anyOf": [ref] * 10}),
    "a chain without end": {"required": ["next"], "properties": {"next": ROOT}},
    "many optional ways into itself": {"type": "object", "properties": {f"p{n}": ROOT for n in range(50)}},
    "optional lists of itself": {"type": "object", "properties": {"p": {"type": "array", "items": ROOT}}},
    "many choices": {"enum": list(range(200_000))},
    "many properties": {"type": "object", "properties": {f"n{n}": {"type": "string"} for n in range(60_000)}},
    "few unique values": {"type": "array", "minItems": 50, "uniqueItems": True, "items": {"type": "boolean"}},
    "at most very many": {"type": "array", "maxItems": 10**12, "items": {"type": "integer"}},
    "deep": nested({"type": "string"}, 300, minItems=1),
    "a fine step": {"type": "number", "minimum": 1e299, "multipleOf": 1e-300},
    "a wide range": {"type": "number", "minimum": -1e299, "maximum": 1e299},
    "a negative step": {"type": "number", "multipleOf": -1},
    "a reference to nowhere": {"$ref": "#/a/~2/%"},
}
MALFORMED: dict[str, tuple[Schema, str]] = {
    "required": ({"required": [{}]}, "required must be a list of names"),
    "a huge number": ({"type": "integer", "minimum": 10**400}, "minimum must lie within 1e300"),
    "a huge bound": (
        {"type": "number", "exclusiveMaximum": -1e301},
        "exclusiveMaximum must lie within 1e300",
    ),
}


def words(rng: Random) -> str:
    return "word" * rng.randint(1, 3)


def body(**fields: object) -> bytes:
    return json.dumps(
        {"model": "sim-model", "messages": [{"role": "user", "content": "hi"}], **fields}
    ).encode()


def shaped(schema: Schema) -> dict[str, object]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}}


def forced(schema: Schema) -> dict[str, object]:
    function = {"name": "f", "parameters": schema}
    return {"tools": [{"type": "function", "function": function}], "tool_choice": "required"}


@pytest.mark.parametrize("schema", TOO_MUCH.values(), ids=TOO_MUCH)
def test_what_cannot_be_answered_is_refused(schema: Schema) -> None:
    """Before it is made: whatever is wanted, a bounded number of steps decides it."""
    with pytest.raises(SchemaError) as caught:
        example(schema, Random(1), words)
    assert str(caught.value).endswith((TOO_LONG, TOO_MUCH_WORK))


@pytest.mark.parametrize("schema", BOUNDED.values(), ids=BOUNDED)
@pytest.mark.parametrize("seed", range(3))
def test_what_can_be_answered_shortly_is(schema: Schema, seed: int) -> None:
    value = json.dumps(example(schema, Random(seed), words))
    assert len(value) < 100_000
    json.loads(value)


@pytest.mark.parametrize(("schema", "message"), MALFORMED.values(), ids=MALFORMED)
def test_what_is_malformed_is_named(schema: Schema, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        example(schema, Random(1), words)


@pytest.mark.parametrize(
    ("schema", "check"),
    [
        (
            {"type": "array", "minItems": 10_000, "items": {"type": "boolean"}},
            lambda value: len(value) >= 10_000,
        ),
        ({"type": "string", "minLength": 500_000}, lambda value: len(value) >= 500_000),
        ({"type": "integer", "minimum": 10**299}, lambda value: value >= 10**299),
        ({"type": "object", "required": [f"n{n}" for n in range(5000)]}, lambda value: len(value) == 5000),
        (
            {
                "type": "array",
                "minItems": 50,
                "uniqueItems": True,
                "items": {"type": "integer", "maximum": 99},
            },
            lambda value: len(value) >= 50 and len(set(value)) == len(value),
        ),
        (nested({"type": "integer"}, 3, minItems=10), lambda value: len(value[0][0]) >= 10),
    ],
)
def test_what_is_large_and_possible_is_answered_in_full(
    schema: Schema, check: Callable[[object], bool]
) -> None:
    for seed in range(3):
        assert check(example(schema, Random(seed), words))


def test_the_bound_is_the_context() -> None:
    """A longer reply would be cut off."""
    assert MOST_CHARACTERS == CONTEXT_TOKENS * CHARACTERS_PER_TOKEN


KEYWORDS = (
    "minItems",
    "maxItems",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "multipleOf",
)
ANY_SCHEMA = st.recursive(
    st.one_of(
        st.sampled_from(
            [{}, ROOT, {"$ref": "#/$defs/a"}, {"type": "string"}, {"type": ["null", "integer"]}, True, 3]
        ),
        st.dictionaries(
            st.sampled_from(KEYWORDS),
            st.one_of(st.integers(-9, 9), st.floats(), st.sampled_from([10**9, 10**310, None, "x"])),
        ),
        st.sampled_from(["object", "array", "integer", "number", "boolean", "null", "strange"]).map(
            lambda kind: {"type": kind}
        ),
    ),
    lambda inner: st.one_of(
        st.fixed_dictionaries(
            {},
            optional={
                "type": st.sampled_from(["object", "array", ["array", "null"]]),
                "properties": st.dictionaries(st.sampled_from("abc"), inner),
                "required": st.lists(st.sampled_from("abcd")),
                "items": inner,
                "prefixItems": st.lists(inner, max_size=3),
                "anyOf": st.lists(inner, max_size=3),
                "allOf": st.lists(inner, max_size=3),
                "$defs": st.dictionaries(st.sampled_from("ab"), inner),
                "minItems": st.integers(0, 20),
                "uniqueItems": st.booleans(),
                "enum": st.lists(st.integers(), max_size=3),
            },
        ),
        st.lists(inner, max_size=2),
    ),
    max_leaves=12,
)


@settings(max_examples=80, deadline=None)
@given(ANY_SCHEMA, st.integers(0, 3))
def test_any_schema_gives_a_value_or_is_refused(schema: object, seed: int) -> None:
    """Nothing else comes out, and the work is bounded."""
    maker = schemas._Maker(schema if isinstance(schema, dict) else {}, Random(seed), words)
    try:
        value = maker.make(maker._root, 0)
    except SchemaError:
        return
    assert maker._work_left >= 0
    assert maker._characters_left >= 0
    json.dumps(value)


@pytest.mark.parametrize(("how", "param"), [(shaped, "response_format"), (forced, "tools")])
def test_the_refusal_names_the_field_and_the_keyword(
    how: Callable[[Schema], dict[str, object]], param: str
) -> None:
    request = parse_request(body(**how({"type": "array", "minItems": 10**9})), ["sim-model"])
    with pytest.raises(ApiError, match=f"{param}.*: minItems 1000000000 asks {TOO_LONG}") as caught:
        plan_reply(request, 0)
    assert caught.value.status == 400
    error = caught.value.body()["error"]
    assert isinstance(error, dict)
    assert (error["param"], error["code"]) == (param, "invalid_json_schema")


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_has_not_are_refused(text: str) -> None:
    """The reply would have them, too."""
    with pytest.raises(ApiError, match=f"{text} is not valid JSON"):
        parse_request(body(x=0).replace(b'"x": 0', b'"x": ' + text.encode()), ["sim-model"])


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("<sim>" * 200_000, None),
        ("</sim>" * 100_000, None),
        ("<sim>" * 90_000 + '{"output_tokens": 3}</sim>', None),
        ('<sim>{"output_tokens": 3}</sim>' + "<sim>" * 50_000, 3),
        ('<sim>{"output_tokens": 3}</sim>x<sim>{"output_tokens": 4}</sim>' + "</sim>" * 9, 4),
    ],
)
def test_directives_are_found_in_linear_time(text: str, tokens: int | None) -> None:
    """The last one counts; one that is opened and not closed is none."""
    from llmsched_langgraph.lab.serve_sim.scripts import scripted_turn

    messages: list[dict[str, object]] = [{"role": "user", "content": text}]
    if tokens is None and "}</sim>" in text:
        with pytest.raises(ApiError, match="is not JSON"):
            scripted_turn(None, messages)
    else:
        assert scripted_turn(None, messages).output_tokens == tokens


def deep(key: bytes, depth: int) -> bytes:
    return body(x=0).replace(b'"x": 0', b'"' + key + b'": ' + b'{"a":' * depth + b"1" + b"}" * depth)


@pytest.fixture
def post(shared_backend: RunningBackend) -> Callable[[bytes], tuple[int, dict[str, object]]]:
    """Sends a body to the running server; returns status and answer."""

    def send(data: bytes) -> tuple[int, dict[str, object]]:
        address = urlsplit(shared_backend.base_url)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=50)
        try:
            connection.request("POST", "/v1/chat/completions", data, {"content-type": "application/json"})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    return send


@pytest.mark.parametrize("how", [shaped, forced])
def test_the_server_answers_them_all(
    post: Callable[[bytes], tuple[int, dict[str, object]]],
    shared_backend: RunningBackend,
    how: Callable[[Schema], dict[str, object]],
) -> None:
    """With a 400 or a reply, one after the other; nothing of them stays."""
    for name, schema in {**TOO_MUCH, **BOUNDED, **{name: own[0] for name, own in MALFORMED.items()}}.items():
        if how is forced and len(json.dumps(schema)) > 300_000:
            continue  # longer than the context
        status, answer = post(body(**how(schema), max_tokens=100))
        assert status == (200 if name in BOUNDED else 400), (name, answer)
        if status == 400:
            error = answer["error"]
            assert isinstance(error, dict)
            assert error["code"] == "invalid_json_schema"
    now = shared_backend.statistics()
    assert (now["in_flight"], now["running"], now["waiting"]) == (0, 0, 0)


@pytest.mark.parametrize("key", [b"x", b"tools", b"sim", b"tool_choice", b"response_format", b"stream"])
def test_whatever_is_nested_deeply_is_a_400_or_no_matter(
    post: Callable[[bytes], tuple[int, dict[str, object]]], key: bytes
) -> None:
    """An unknown field is ignored as long as it can be read."""
    for depth in (50, 900, 990, 100_000):
        status, _ = post(deep(key, depth))
        assert status in ((200, 400) if key == b"x" else (400,)), depth


def test_what_can_be_read_and_not_written_is_a_400(
    post: Callable[[bytes], tuple[int, dict[str, object]]],
) -> None:
    """A value is written from within more calls than it was read from."""
    data = body(**shaped({"type": "array", "uniqueItems": True, "items": {"const": 0}}))
    seen = set()
    for depth in range(900, 1000):
        seen.add(post(data.replace(b'"const": 0', b'"const": ' + b"[" * depth + b"]" * depth))[0])
    assert seen == {200, 400}
