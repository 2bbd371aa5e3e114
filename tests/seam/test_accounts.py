"""Accounts of a backend: whose key a call is sent with, and limits that each account has for itself."""

from __future__ import annotations

import os
import pickle
import threading
from contextlib import contextmanager, suppress
from typing import TypedDict

import httpx
import openai
import pytest
from langchain_anthropic import ChatAnthropic
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_google_genai import ChatGoogleGenerativeAI
from langchain_openai import AzureChatOpenAI, ChatOpenAI, OpenAIEmbeddings
from langgraph.graph import START, StateGraph
from pydantic import SecretStr
from support.seam import until

from llmsched_langgraph import Backend, Budget, ConfigurationError, Scheduler, schedule, wrap_openai
from llmsched_langgraph._adapter.accounts import account_of, account_of_request
from llmsched_langgraph.errors import BudgetExceededError, SchedulerClosedError
from llmsched_langgraph.traces import read_jobs

ONE, OTHER = "sk-one-0123456789", "sk-other-0123456789"
MODEL = "http://model.test/v1"


class State(TypedDict, total=False):
    n: int


class Asking(BaseChatModel):
    """Sends one request with its key."""

    base_url: str = MODEL
    api_key: SecretStr
    client: object = None

    @property
    def _llm_type(self):
        return "asking"

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        headers = {"Authorization": f"Bearer {self.api_key.get_secret_value()}"}
        self.client.post(f"{MODEL}/chat", json={}, headers=headers).raise_for_status()
        usage = {"input_tokens": 1_000_000, "output_tokens": 0, "total_tokens": 1_000_000}
        return ChatResult(generations=[ChatGeneration(message=AIMessage("x", usage_metadata=usage))])


class Server:
    """Serves by key what it is told, and counts what it sees."""

    def __init__(self):
        self.answers = {}
        self.seen = []
        self.client = httpx.Client(transport=httpx.MockTransport(self.serve))

    def serve(self, request):
        key = request.headers["Authorization"].removeprefix("Bearer ")
        self.seen.append(key)
        return self.answers.get(key, lambda: httpx.Response(200, json={}))()


@pytest.fixture
def server():
    made = Server()
    with made.client:
        yield made


@pytest.fixture
def make():
    made = []

    def make(slots=4, *, per_account=True, on_budget="stop", record=None, **settings):
        backend = Backend("b", slots, per_account=per_account, **settings)
        made.append(Scheduler(backends=[backend], policy="fcfs", on_budget=on_budget, record=record))
        return made[-1]

    yield make
    for scheduler in made:
        scheduler.check()
        scheduler.close()


def graph_of(server, scheduler):
    """A graph whose model has the key of the run's tenant, which its state names."""

    def node(state):
        Asking(api_key=SecretStr(ONE if state["n"] == 1 else OTHER), client=server.client).invoke("how many?")
        return {}

    return schedule(StateGraph(State).add_node("a", node).add_edge(START, "a").compile(), scheduler)


def start(graph, n):
    def run():
        with suppress(SchedulerClosedError):
            graph.invoke({"n": n})

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


@contextmanager
def held(slot):
    """Hold the slot in code that is no part of the call."""
    slot.acquire()
    try:
        yield
    finally:
        slot.release()


def pools(scheduler):
    return {own.name: own for own in scheduler.statistics().backends}


def pool(key):
    return f"b#{account_of(Asking(api_key=SecretStr(key)), {})}"


def refuse(*, once):
    told = []

    def answer():
        if once and told:
            return httpx.Response(200, json={})
        told.append(1)
        return httpx.Response(429, headers={"Retry-After": "100"})

    return answer


@pytest.mark.parametrize("per_account", [True, False])
def test_a_refusal_pauses_its_account_alone(server, make, per_account):
    scheduler = make(per_account=per_account)
    server.answers[ONE] = refuse(once=True)
    graph = graph_of(server, scheduler)
    with pytest.raises(httpx.HTTPStatusError):
        graph.invoke({"n": 1})
    paused = start(graph, 1)
    until(lambda: scheduler.statistics().waiting == 1)
    other = start(graph, 2)
    if per_account:
        other.join(20)
        assert not other.is_alive()
    else:
        until(lambda: scheduler.statistics().waiting == 2)
    assert paused.is_alive()
    assert server.seen.count(ONE) == 1
    assert [own.name for own in pools(scheduler).values() if own.waiting] == [
        pool(ONE) if per_account else "b"
    ]
    scheduler.close()
    paused.join(20)
    other.join(20)


def test_each_account_has_its_own_rate(server, make):
    scheduler = make(requests_per_minute=2)
    graph = graph_of(server, scheduler)
    waiting = [start(graph, 1) for _ in range(3)]
    until(lambda: scheduler.statistics().waiting == 1 and server.seen.count(ONE) == 2)
    for _ in range(2):
        graph.invoke({"n": 2})
    assert (server.seen.count(ONE), server.seen.count(OTHER)) == (2, 2)
    scheduler.close()
    for thread in waiting:
        thread.join(20)


def test_each_account_has_its_own_slots(make):
    scheduler = make(1)
    with held(scheduler.slot(account=ONE)), held(scheduler.slot(account=OTHER)), held(scheduler.slot()):
        found = pools(scheduler)
        assert len(found) == 3
        assert {(own.slots, own.holding) for own in found.values()} == {(1, 1)}


def test_an_account_may_be_any_text(make):
    """Such as an environment variable with a stray byte."""
    scheduler = make(1)
    with held(scheduler.slot(account="sk-\udcff")), held(scheduler.slot(account="sk-\udcfe")):
        assert sum(own.holding for own in pools(scheduler).values()) == 2  # on one slot each


def test_resize_is_of_every_account_also_of_those_to_come(make):
    scheduler = make(1)
    with held(scheduler.slot(account=ONE)):
        pass
    scheduler.resize(3)
    with held(scheduler.slot(account=OTHER)):
        pass
    assert {own.slots for own in pools(scheduler).values()} == {3}
    scheduler.resize(2, "b")
    assert {own.slots for own in pools(scheduler).values()} == {2}
    with pytest.raises(ConfigurationError, match="no backend 'b#"):
        scheduler.resize(1, pool(ONE))


def test_resize_while_an_account_comes(make, monkeypatch):
    """Its first call has read the settings when they change."""
    scheduler = make(1)
    configure = scheduler._driver.configure

    def late(backend):
        if backend.name != "b":
            monkeypatch.undo()
            scheduler.resize(3)
        configure(backend)

    monkeypatch.setattr(scheduler._driver, "configure", late)
    with held(scheduler.slot(account=ONE)):
        assert {own.slots for own in pools(scheduler).values()} == {3}
    assert len(pools(scheduler)) == 2


def test_an_account_that_comes_during_a_resize(make, monkeypatch):
    scheduler = make(1)
    configure = scheduler._driver.configure

    def late(backend):
        monkeypatch.undo()
        scheduler.slot(account=ONE)
        configure(backend)

    monkeypatch.setattr(scheduler._driver, "configure", late)
    scheduler.resize(3)
    assert {own.slots for own in pools(scheduler).values()} == {3}
    assert len(pools(scheduler)) == 2


def test_no_key_stands_anywhere(server, make, tmp_path, caplog):
    server.answers[ONE] = refuse(once=True)
    scheduler = make(record=tmp_path / "jobs.jsonl")
    entries = []
    graph = graph_of(server, scheduler)
    with scheduler.subscribe(entries.append):
        with pytest.raises(httpx.HTTPStatusError):
            graph.invoke({"n": 1})
        graph.invoke({"n": 2})
        with held(scheduler.slot(account=OTHER)):
            text = f"{scheduler!r} {scheduler.statistics()} {scheduler._driver.view()}"
    scheduler.close()
    text += f"{entries} {caplog.text} {(tmp_path / 'jobs.jsonl').read_text()}"
    assert pool(ONE) in text
    assert ONE not in text
    assert OTHER not in text


def test_what_is_recorded_and_charged_names_the_backend(server, make, tmp_path):
    """An account is none of its own for learning and prices."""
    scheduler = make(record=tmp_path / "jobs.jsonl", prices={"*": (2.0, 0.0)})
    loop = StateGraph(State)
    model = Asking(api_key=SecretStr(ONE), client=server.client)
    for name in "abc":
        loop.add_node(name, lambda state: (model.invoke("how many?"), {})[1])
    loop.add_edge(START, "a").add_edge("a", "b").add_edge("b", "c")
    with pytest.raises(BudgetExceededError, match=r"cost 2"):
        schedule(loop.compile(), scheduler, budget=Budget(cost=1.5)).invoke({})
    graph_of(server, scheduler).invoke({"n": 1})
    scheduler.close()
    (job,) = [job for job in read_jobs(tmp_path / "jobs.jsonl") if job.end == "done"]
    assert [call.backend for call in job.llm_calls()] == ["b"]


def test_accounts_that_come_at_once(make):
    scheduler = make(1)
    begin = threading.Barrier(20)

    def call(n):
        begin.wait()
        with scheduler.slot(account=f"account {n % 10}"):
            pass

    threads = [threading.Thread(target=call, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    found = pools(scheduler)
    assert len(found) == 11
    assert scheduler.statistics().granted == scheduler.statistics().released == 20


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_knows_the_accounts(make):
    scheduler = make(1)
    slot = scheduler.slot(account=ONE)
    slot.acquire()
    there, here = os.pipe()
    child = os.fork()
    if not child:
        try:
            with scheduler.slot(account=ONE), scheduler.slot(account=OTHER):
                os.write(here, pickle.dumps(sorted(pools(scheduler))))
        finally:
            os._exit(0)
    try:
        assert pickle.loads(os.read(there, 10_000)) == sorted(["b", pool(ONE), pool(OTHER)])
        os.waitpid(child, 0)
    finally:
        slot.release()


def test_outside_runs(server, make):
    """A call that the scheduler does not see as part of a run is of its key's account, too."""
    scheduler = make(1)
    client = openai.OpenAI(api_key=ONE, base_url=MODEL, http_client=server.client)
    wrapped = wrap_openai(client, scheduler)
    wrapped.chat.completions.create(model="m", messages=[])
    assert pools(scheduler).keys() == {"b", pool(ONE)}


def test_the_name_of_a_key_one_holds(server, make):
    """Finds its account in the statistics, whichever way the key came; it is the same in every scheduler."""
    scheduler = make(1)
    wrapped = wrap_openai(openai.OpenAI(api_key=ONE, base_url=MODEL, http_client=server.client), scheduler)
    wrapped.chat.completions.create(model="m", messages=[])
    with scheduler.slot(account=OTHER):
        names = [backend.name for backend in scheduler.statistics().backends]
    assert names == ["b", f"b#{scheduler.account(ONE)}", f"b#{make().account(OTHER)}"]
    assert not any(key in f"{vars(scheduler)} {names}" for key in (ONE, OTHER))


def test_invalid_settings(make):
    with pytest.raises(ConfigurationError, match="backend 'b': per_account must be True or False, not 'yes'"):
        make(per_account="yes")
    with pytest.raises(ConfigurationError, match="backend 'a#b' is per_account: its name must have no '#'"):
        Scheduler(backends=[Backend("a#b", per_account=True)])
    Scheduler(backends=[Backend("a#b")]).close()
    scheduler = make()
    for wrong in ("", 3, b"sk"):
        with pytest.raises(ConfigurationError, match="account must be text that is not empty, not a "):
            scheduler.slot(account=wrong)


MODELS = {
    "openai": lambda key: ChatOpenAI(api_key=key),
    "openai, by header": lambda key: ChatOpenAI(
        api_key="x", default_headers={"authorization": f"Bearer {key}"}
    ),
    "azure": lambda key: AzureChatOpenAI(
        api_key=key, azure_endpoint="https://a.test", azure_deployment="d", api_version="1"
    ),
    "embeddings": lambda key: OpenAIEmbeddings(api_key=key),
    "anthropic": lambda key: ChatAnthropic(api_key=key, model_name="c"),
    "google": lambda key: ChatGoogleGenerativeAI(api_key=key, model="g"),
    "bound": lambda key: ChatOpenAI(api_key=key).bind(stop=["x"]),
    "tools": lambda key: ChatOpenAI(api_key=key).bind_tools([]),
}


@pytest.mark.parametrize("kind", MODELS)
def test_the_key_of_a_model(kind):
    """Equal keys are one account, whichever library sends them."""
    make = MODELS[kind]
    assert account_of(make(ONE), {}) == account_of(ChatOpenAI(api_key=ONE), {}) != ""
    assert account_of(make(ONE), {}) != account_of(make(OTHER), {})


@pytest.mark.parametrize("name", ["Authorization", "api-key", "x-api-key", "X-Goog-Api-Key"])
def test_the_key_of_a_request(name):
    expected = account_of(ChatOpenAI(api_key=ONE), {})
    value = f"Bearer {ONE}" if name == "Authorization" else ONE
    assert account_of_request(httpx.Headers({name: value})) == expected
    assert account_of(ChatOpenAI(api_key=OTHER), {"extra_headers": {name: value}}) == expected
    assert account_of_request({}) == ""


def test_a_model_without_a_key():
    """Such as one whose library asks a function, or finds the credentials by itself."""

    class Odd(Asking):
        def __getattr__(self, name):
            raise RuntimeError

    assert account_of(ChatOpenAI(api_key=lambda: ONE), {}) == ""
    assert account_of(object(), {}) == ""
    assert account_of(None, {}) == ""
