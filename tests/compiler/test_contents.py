"""In which objects, and by which ways, the compiler finds the model that a node calls."""

from __future__ import annotations

import collections
import contextvars
import dataclasses
import enum
import functools
import itertools
import operator
import queue
import sys
import threading
import types
from typing import Any, NamedTuple

import openai
import pytest
from langchain.chat_models import init_chat_model
from langchain_core.language_models import BaseChatModel, FakeListChatModel
from langchain_core.runnables import ConfigurableField, RunnableLambda, RunnableParallel
from langgraph.graph import START, MessagesState, StateGraph
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel, ConfigDict, PrivateAttr

from llmsched_langgraph import compile_graph

MODEL = FakeListChatModel(responses=["."])
LATE = init_chat_model(configurable_fields=("model",))
HALF = init_chat_model("openai:gpt-x", configurable_fields=("temperature",), config_prefix="w")
ANY = init_chat_model("openai:gpt-x", configurable_fields="any")
FIELD = ConfigurableField(id="llm")


class Verdict(BaseModel):
    good: bool


@pytest.fixture(autouse=True)
def key(monkeypatch) -> None:
    """LangGraph asks some runnables for attributes, which makes them make a model."""
    monkeypatch.setenv("OPENAI_API_KEY", "none")


def graph_of(code: Any) -> Any:
    builder = StateGraph(MessagesState)
    builder.add_node("node", code)
    builder.add_edge(START, "node")
    return builder.compile()


def node_of(code: Any) -> Any:
    return compile_graph(graph_of(code)).by_path["node"]


def nodes(**codes: Any) -> list[Any]:
    return [pytest.param(code, id=name) for name, code in codes.items()]


def all_called(**models: Any) -> list[Any]:
    """Each model as a node, in a closure, in a list, in a dict, and in a sequence."""
    return [
        pytest.param(code, id=f"{name}, {way}")
        for name, model in models.items()
        for way, code in {
            "as a node": model,
            "in a closure": (lambda held: lambda state: held.invoke("?"))(model),
            "in a list": (lambda held: lambda state: held[0].invoke("?"))([model]),
            "in a dict": (lambda held: lambda state: held["a"]["b"].invoke("?"))({"a": {"b": model}}),
            "in a sequence": RunnableLambda(lambda state: "?") | model,
            "bound method": (lambda ask: lambda state: ask("?"))(model.invoke),
            "in a partial function": functools.partial(lambda model, state: model.invoke("?"), model),
        }.items()
    ]


# -- models that are chosen later -----------------------------------------------------------------


@pytest.mark.parametrize(
    "node",
    all_called(
        late=LATE,
        half=HALF,
        any=ANY,
        tools=LATE.bind_tools([Verdict]),
        shaped=LATE.with_structured_output(Verdict),
        configured=LATE.with_config({"configurable": {"model": "openai:x"}}),
        retried=LATE.bind_tools([Verdict]).with_retry(),
        all=HALF.with_structured_output(Verdict).with_retry().with_config(tags=["x"]),
        fallback=RunnableLambda(lambda state: {}).with_fallbacks([LATE]),
        parallel=RunnableParallel(a=RunnableLambda(lambda state: {}), b=LATE),
    ),
)
def test_a_model_that_is_configured_when_it_runs(node):
    """`init_chat_model` with configurable fields gives a runnable that makes a model at each call."""
    found = node_of(node)
    assert found.kind == "llm"
    assert found.reason.startswith("calls a model that is configured when it runs (")


@pytest.mark.parametrize(
    "node",
    all_called(
        fields=MODEL.configurable_fields(responses=FIELD),
        alternatives=MODEL.configurable_alternatives(FIELD, other=MODEL),
        factory=MODEL.configurable_alternatives(FIELD, other=lambda: MODEL),
        retried=MODEL.with_retry(),
        bound=MODEL.bind(stop=["."]).with_config(tags=["x"]),
        fallback=RunnableLambda(lambda state: {}).with_fallbacks([MODEL]),
    ),
)
def test_a_model_inside_a_runnable(node):
    """What LangChain wraps around a model is looked into."""
    found = node_of(node)
    assert (found.kind, found.reason.partition(" (")[0]) == ("llm", "calls FakeListChatModel")


def test_made_and_configured_in_the_node():
    """The factory is found where it is named."""

    def outside(state: Any) -> Any:
        return init_chat_model(configurable_fields="any").with_config(tags=["x"]).invoke("?")

    def inside(state: Any) -> Any:
        from langchain import chat_models

        return chat_models.init_chat_model("openai:x").invoke("?")

    assert node_of(outside).reason == "calls what init_chat_model() builds (global `init_chat_model`)"
    assert node_of(inside).reason == "calls what init_chat_model() builds (global `init_chat_model`)"


def test_no_model_is_made_to_look_at_it(monkeypatch):
    """The runnable makes a model when an attribute is asked of it that it has not; none is asked."""
    models = (HALF, ANY, HALF.bind_tools([Verdict]), HALF.with_retry())
    graphs = [graph_of(model) for model in models]
    graphs += [graph_of(lambda state, model=model: model.invoke("?")) for model in models]
    from langchain.chat_models import base

    monkeypatch.setattr(base, "_init_chat_model_helper", lambda **kwargs: pytest.fail("a model was made"))
    for graph in graphs:
        assert compile_graph(graph).by_path["node"].kind == "llm"


# -- objects that hold a model ----------------------------------------------------------------------


class Pair(NamedTuple):
    llm: Any
    other: int


@dataclasses.dataclass
class Settings:
    llm: Any
    name: str = "x"


@dataclasses.dataclass(slots=True)
class Outer:
    settings: Settings
    parts: list[Any] = dataclasses.field(default_factory=list)


class Parsed(BaseModel):
    model_config = ConfigDict(extra="allow", arbitrary_types_allowed=True)
    outer: Any = None
    _llm: Any = PrivateAttr(default=None)

    def ask(self) -> Any:
        return self._llm.invoke("?")


class Base:
    def __init__(self, llm: Any) -> None:
        self.llm = llm

    def run(self, state: Any) -> Any:
        return self.llm.invoke("?")

    def count(self, state: Any) -> Any:
        self.counted = 1
        return {"messages": []}

    def shown(self, state: Any) -> Any:
        return show(self, state["model"].name)

    def helped(self, state: Any) -> Any:
        return ask(self)

    def by_string(self, state: Any) -> Any:
        return getattr(self, "llm").invoke("?")  # noqa: B009


class Child(Base):
    def run(self, state: Any) -> Any:
        return super().run(state)


class Made:
    def __init__(self) -> None:
        self.model = FakeListChatModel(responses=["."])

    def run(self, state: Any) -> Any:
        return self.model.invoke("?")

    @staticmethod
    def size(state: Any) -> int:
        return 1


class MadeAndCalled:
    def __init__(self) -> None:
        self.model = FakeListChatModel(responses=["."])

    def __call__(self, state: Any) -> Any:
        return self.model.invoke("?")


class OfClass:
    llm = MODEL

    @classmethod
    def ask(cls, state: Any) -> Any:
        return cls.llm.invoke("?")

    @staticmethod
    def ask_global(state: Any) -> Any:
        return MODEL.invoke("?")

    @staticmethod
    def count(state: Any) -> Any:
        return {"messages": []}


class Computed:
    def __init__(self) -> None:
        self._llm = MODEL

    @property
    def llm(self) -> Any:
        return self._llm

    @functools.cached_property
    def chain(self) -> Any:
        return self._llm.bind(stop=["."])

    def _ask(self, what: str, state: Any) -> Any:
        return self._llm.invoke(what)

    ask = functools.partialmethod(_ask, "?")

    def __getitem__(self, name: str) -> Any:
        return self._llm

    def __enter__(self) -> Any:
        return self._llm

    def __exit__(self, *error: object) -> None:
        pass

    def __iter__(self) -> Any:
        yield self._llm


class Lazy:
    def _load(self) -> Any:
        return FakeListChatModel(responses=["."])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._load(), name)


class Descriptor:
    def __get__(self, owner: Any, cls: Any = None) -> Any:
        return MODEL


class Described:
    llm = Descriptor()


class Client:
    def __init__(self) -> None:
        self._client = AsyncOpenAI(api_key="none")

    async def __call__(self, state: Any) -> Any:
        await self._client.responses.create(model="m", input="?")


class Models(enum.Enum):
    FAST = MODEL


def show(thing: Any, name: str) -> Any:
    return {"messages": [repr(thing), name]}


def ask(agent: Any) -> Any:
    return ask_again(agent)


def ask_again(agent: Any) -> Any:
    return agent.llm.invoke("?")


@functools.singledispatch
def dispatched(text: Any) -> Any:
    return MODEL.invoke(text)


@functools.cache
def remembered() -> Any:
    return LATE.bind_tools([Verdict])


BASE, CHILD, COMPUTED, LAZY, DESCRIBED = Base(MODEL), Child(MODEL), Computed(), Lazy(), Described()
OUTER = Outer(Settings(MODEL), [Base(LATE)])
PRIVATE, EXTRA = Parsed(), Parsed(another=MODEL)
PRIVATE._llm = MODEL
NESTED = Parsed(outer=OUTER)
AGENTS = {"a": [BASE], "b": (OUTER,)}
SPACE = types.SimpleNamespace(llm=MODEL, inner=types.SimpleNamespace(llm=LATE))
LOCAL = threading.local()
LOCAL.llm = MODEL
NAMED = Pair(MODEL, 1)
ASK = MODEL.invoke
CREATE = OpenAI(api_key="none").chat.completions.create
CHAT = OpenAI(api_key="none").chat
CYCLE = itertools.cycle([MODEL, LATE])
NEXT = iter([MODEL]).__next__
QUEUE: Any = queue.Queue()
QUEUE.put(MODEL)
VARIABLE = contextvars.ContextVar("VARIABLE", default=MODEL)
USER_DICT, CHAIN_MAP = collections.UserDict(a=MODEL), collections.ChainMap({}, {"a": MODEL})
DEFAULT = collections.defaultdict(lambda: FakeListChatModel(responses=["."]))
GET = {"a": MODEL}.get
CALL_IT = operator.methodcaller("invoke", "?")


def log_and_ask(state: Any) -> Any:
    BASE.count(state)
    return again(state)


def again(state: Any) -> Any:
    return BASE.run(state)


def by_context(state: Any) -> Any:
    with COMPUTED as llm:
        return llm.invoke("?")


def nested_functions(state: Any) -> Any:
    def inner() -> Any:
        return (lambda: [MODEL.invoke(text) for text in state["messages"]])()

    return inner()


@pytest.mark.parametrize(
    "node",
    nodes(
        dataclass=lambda state: OUTER.settings.llm.invoke("?"),
        list_of_objects=lambda state: OUTER.parts[0].run(state),
        pydantic=lambda state: NESTED.outer.settings.llm.invoke("?"),
        private_attribute=lambda state: PRIVATE.ask(),
        extra_attribute=lambda state: EXTRA.another.invoke("?"),
        dict_of_lists=lambda state: AGENTS["a"][0].run(state),
        namespace=lambda state: SPACE.inner.llm.invoke("?"),
        thread_local=lambda state: LOCAL.llm.invoke("?"),
        named_tuple=lambda state: NAMED.llm.invoke("?"),
        method=BASE.run,
        inherited_method=CHILD.run,
        super_method=lambda state: CHILD.run(state),
        method_by_string=BASE.by_string,
        attribute_by_string=lambda state: getattr(SPACE, "llm").invoke("?"),  # noqa: B009
        attribute_getter=lambda state: operator.attrgetter("inner.llm")(SPACE).invoke("?"),
        method_caller=lambda state: CALL_IT(MODEL),
        object_passed_on=lambda state: ask(BASE),
        self_passed_on=BASE.helped,
        object_used_twice=log_and_ask,
        unbound_method=functools.partial(Base.run, BASE),
        runnable_of_method=RunnableLambda(BASE.run),
        runnable_of_partial=RunnableLambda(functools.partial(Base.run, BASE)),
        callable_object=Client(),
        runnable_of_callable=RunnableLambda(Client().__call__),
        made_in_the_node=lambda state: Made().run(state),
        made_and_called=lambda state: MadeAndCalled()(state),
        class_method=lambda state: OfClass.ask(state),
        class_method_as_node=OfClass.ask,
        static_method=lambda state: OfClass.ask_global(state),
        class_attribute=lambda state: OfClass.llm.invoke("?"),
        property=lambda state: COMPUTED.llm.invoke("?"),
        cached_property=lambda state: COMPUTED.chain.invoke("?"),
        partial_method=lambda state: COMPUTED.ask(state),
        indexed=lambda state: COMPUTED["a"].invoke("?"),
        iterated=lambda state: [llm.invoke("?") for llm in COMPUTED],
        context_manager=by_context,
        lazy=lambda state: LAZY.invoke("?"),
        descriptor=lambda state: DESCRIBED.llm.invoke("?"),
        enumeration=lambda state: Models.FAST.value.invoke("?"),
        bound_method_of_model=lambda state: ASK("?"),
        bound_method_as_default=lambda state, ask=MODEL.invoke: ask("?"),
        openai_method=lambda state: CREATE(model="m", messages=[]),
        openai_resource=lambda state: CHAT.completions.create(model="m", messages=[]),
        openai_module=lambda state: openai.chat.completions.create(model="m", messages=[]),
        openai_made=lambda state: openai.OpenAI().responses.create(model="m", input="?"),
        cycle=lambda state: next(CYCLE).invoke("?"),
        iterator=lambda state: NEXT().invoke("?"),
        queue=lambda state: QUEUE.get().invoke("?"),
        context_variable=lambda state: VARIABLE.get().invoke("?"),
        user_dict=lambda state: USER_DICT["a"].invoke("?"),
        chain_map=lambda state: CHAIN_MAP["a"].invoke("?"),
        default_dict=lambda state: DEFAULT["a"].invoke("?"),
        get_of_dict=lambda state: GET("a").invoke("?"),
        single_dispatch=lambda state: dispatched("?"),
        cached_factory=lambda state: remembered().invoke("?"),
        nested_functions=nested_functions,
    ),
)
def test_a_model_is_found(node):
    """However deep in objects, and by whatever the code does with them."""
    assert node_of(node).kind == "llm"


# -- modules ----------------------------------------------------------------------------------------


@pytest.fixture
def helpers(monkeypatch) -> types.ModuleType:
    """A module `pack.helpers` with a model and a function that does not use it."""
    package, module = types.ModuleType("pack"), types.ModuleType("pack.helpers")
    package.helpers = module
    exec(
        "def clean(text): return text.model\n"
        "def count(text): return len(text)\n"
        "def ask(text): return model.invoke(text)\n",
        vars(module),
    )
    module.model = MODEL
    monkeypatch.setitem(sys.modules, "pack", package)
    monkeypatch.setitem(sys.modules, "pack.helpers", module)
    return module


def code(text: str, **space: Any) -> Any:
    """The function `node` of a program."""
    exec(text, space)
    return space["node"]


@pytest.mark.parametrize("way", ["helpers", "pack.helpers"])
@pytest.mark.parametrize(
    ("what", "kind"),
    [
        ("model.invoke('?')", "llm"),
        ("ask('?')", "llm"),
        ("clean('?')", "regular"),
        ("count(state['a'].model)", "regular"),
    ],
)
def test_modules_in_globals(helpers, way, what, kind):
    """Of a module, what the code names counts; that it has a model does not."""
    node = code(f"def node(state): return {way}.{what}", helpers=helpers, pack=sys.modules["pack"])
    assert node_of(node).kind == kind


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("import pack.helpers; pack.helpers.model.invoke('?')", "llm"),
        ("import pack.helpers; pack.helpers.count('?')", "regular"),
        ("import pack.helpers as h; h.model.invoke('?')", "llm"),
        ("import pack.helpers as h; h.count(state['model'].model)", "regular"),
        ("from pack import helpers; helpers.ask('?')", "llm"),
        ("from pack import helpers; helpers.count('?')", "regular"),
        ("from pack.helpers import model as m, count; m.invoke(count('?'))", "llm"),
        ("from pack.helpers import count, clean; clean('?')", "regular"),
        ("from .helpers import model; model.invoke('?')", "llm"),
        ("from . import helpers as h; h.model.invoke('?')", "llm"),
        ("from .helpers import count; count('?')", "regular"),
        ("from missing import model; model.invoke('?')", "regular"),
    ],
)
def test_imports_in_the_node(helpers, text, kind):
    """Absolute or relative, of a module or from it; nothing is imported to look."""
    node = code(f"def node(state): {text}", __package__="pack", __name__="pack.nodes")
    assert node_of(node).kind == kind
    assert "missing" not in sys.modules


# -- what is no call --------------------------------------------------------------------------------


def llm(state: Any) -> Any:
    """A function of the name that attributes often have."""
    return MODEL.invoke("?")


class Callable:
    """An object that calls a model if it is called, and not by its other method."""

    def __init__(self) -> None:
        self.llm = MODEL

    def __call__(self, state: Any) -> Any:
        return self.llm.invoke("?")

    def note(self, state: Any) -> Any:
        return {"messages": []}


CALLABLE = Callable()


@pytest.mark.parametrize(
    "node",
    nodes(
        other_method=BASE.count,
        method_that_passes_itself_on=BASE.shown,
        other_method_of_global=lambda state: BASE.count(state),
        method_beside_call=lambda state: CALLABLE.note(state),
        other_attribute=lambda state: OUTER.settings.name,
        attribute_named_like_a_global=lambda state: state["messages"][0].llm,
        attribute_of_the_state=lambda state: state["llm"].invoke("?"),
        instance_test=lambda state: isinstance(state, Made),
        model_test=lambda state: isinstance(state, BaseChatModel),
        static_method_of_class=lambda state: OfClass.count(state),
        static_method_beside_init=lambda state: Made.size(state),
        schema=lambda state: Verdict(good=True).model_dump(),
        error_of_openai=lambda state: isinstance(state, openai.RateLimitError),
    ),
)
def test_no_model_is_made_up(node):
    """A model near the code counts only if the code may call it."""
    assert node_of(node).kind == "regular"


# -- no side effects ----------------------------------------------------------------------------------


class Hostile:
    """Tells of everything that is done to it."""

    done: list[str] = []

    def _note(self, *args: Any) -> Any:
        Hostile.done.append(str(args))
        raise AssertionError("it was touched")

    __getattribute__ = __getattr__ = __eq__ = __bool__ = __len__ = __iter__ = __repr__ = __call__ = _note
    __hash__ = None


class Proxy:
    """Resolves itself for everything, as lazy proxies do."""

    __slots__ = ("target",)
    done: list[str] = []

    def _resolve(self) -> Any:
        Proxy.done.append("resolved")
        return MODEL

    __class__ = property(_resolve)
    __dict__ = property(_resolve)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._resolve(), name)


class Loud(dict):
    """A dict that loads its values when it is asked for them."""

    def values(self) -> Any:
        raise AssertionError("it was loaded")

    __iter__ = items = keys = values


class LoudList(list):
    def __iter__(self) -> Any:
        raise AssertionError("it was loaded")


class Opening:
    @property
    def connection(self) -> Any:
        raise AssertionError("a connection was opened")

    @functools.cached_property
    def client(self) -> Any:
        raise AssertionError("a client was made")


HOSTILE, PROXY, OPENING = object.__new__(Hostile), Proxy(), Opening()
LOUD, LOUD_LIST = Loud(a=1), LoudList([1])


@pytest.mark.parametrize(
    "node",
    nodes(
        hostile=lambda state: HOSTILE.model.invoke(HOSTILE),
        proxy=lambda state: PROXY.invoke(PROXY),
        loud=lambda state: [LOUD, LOUD_LIST],
        opening=lambda state: [OPENING.connection.get(), OPENING.client.get()],
        in_a_runnable=RunnableLambda(functools.partial(lambda *args: args, HOSTILE, PROXY, LOUD)),
        in_a_container=lambda state, held=([HOSTILE], {"a": PROXY}): held,
    ),
)
def test_looking_has_no_effect(node):
    """No property is read, no attribute asked for, nothing called, compared or counted."""
    graph = graph_of(node)  # LangGraph looks as well
    Hostile.done.clear()
    Proxy.done.clear()
    compile_graph(graph)
    assert (Hostile.done, Proxy.done) == ([], [])


def test_iterators_and_queues_are_not_consumed():
    """Looking into them leaves them as they are."""
    numbers, jobs = iter([MODEL, 1]), queue.Queue()
    jobs.put(MODEL)
    node_of(lambda state: [next(numbers), jobs.get()])
    assert (next(numbers), jobs.qsize()) == (MODEL, 1)


def test_circles_and_crowds_end():
    """Objects that hold each other, very deep ones, and very many."""
    one, other = types.SimpleNamespace(), types.SimpleNamespace()
    one.other, other.one, one.itself = other, one, one
    deep: Any = types.SimpleNamespace(llm=MODEL)
    for _ in range(100_000):
        deep = [deep]
    many = [types.SimpleNamespace(next=number) for number in range(100_000)]
    assert node_of(lambda state: one.other.one.itself).kind == "regular"
    assert node_of(lambda state: [deep, many]).kind == "regular"


def test_the_reason_says_where():
    """The last step on the way to the model: which variable or attribute holds it."""
    assert node_of(lambda state: OUTER.settings.llm.invoke("?")).reason == (
        "calls FakeListChatModel (attribute `llm`)"
    )
    assert node_of(lambda state: MODEL.invoke("?")).reason == "calls FakeListChatModel (global `MODEL`)"
    assert node_of(lambda state: remembered()).reason == (
        "calls a model that is configured when it runs (global `LATE`)"
    )
