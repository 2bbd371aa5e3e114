"""The process-wide scheduler's settings: variables of the environment, and the file of LLMSCHED_CONFIG."""

from __future__ import annotations

import inspect
import os
import re

import pytest

from llmsched_langgraph import (
    Auto,
    Backend,
    ConfigurationError,
    Scheduler,
    Tenant,
    default_scheduler,
    reset_default_scheduler,
)
from llmsched_langgraph._runtime import environment

VARIABLES = {
    "LLMSCHED_SLOTS": "3",
    "LLMSCHED_POLICY": "plas",
    "LLMSCHED_PROFILES": "profiles",
    "LLMSCHED_RECORD": "jobs.jsonl",
    "LLMSCHED_QUEUE_TIMEOUT_S": "2.5",
    "LLMSCHED_MAX_JOBS": "7",
    "LLMSCHED_MAX_QUEUED": "9",
    "LLMSCHED_AT_DOOR": "defer",
}


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    """No default scheduler, no variables, nothing told before, and a folder of its own."""
    for variable in [name for name in os.environ if name.startswith("LLMSCHED_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setattr(environment, "_told", set())
    monkeypatch.chdir(tmp_path)
    reset_default_scheduler()
    yield
    reset_default_scheduler()


@pytest.fixture
def given(monkeypatch):
    """The arguments with which schedulers are made, beside making them."""
    seen = []

    def make(**settings):
        seen.append(settings)
        return Scheduler(**settings)

    monkeypatch.setattr("llmsched_langgraph._runtime.default.Scheduler", make)
    return seen


@pytest.fixture
def config(monkeypatch, tmp_path):
    """Writes the file that LLMSCHED_CONFIG names, and returns the default scheduler."""

    def write(text):
        file = tmp_path / "llmsched.toml"
        file.write_text(text)
        monkeypatch.setenv("LLMSCHED_CONFIG", str(file))
        return default_scheduler()

    return write


def refused(config, text):
    """The error of a file, which begins with its name."""
    with pytest.raises(
        ConfigurationError, match=r"LLMSCHED_CONFIG: |\(LLMSCHED_CONFIG\): |has backends"
    ) as caught:
        config(text)
    return str(caught.value).partition("llmsched.toml")[2]


# -- variables ---------------------------------------------------------------------------


def test_each_variable_is_the_argument_of_its_name(monkeypatch, given):
    """As a value of its kind."""
    for variable, text in VARIABLES.items():
        monkeypatch.setenv(variable, text)
    default_scheduler()
    (settings,) = given
    assert {name: str(value) for name, value in settings.items()} == {
        variable.removeprefix("LLMSCHED_").lower(): text for variable, text in VARIABLES.items()
    }
    assert set(settings) <= set(inspect.signature(Scheduler).parameters)
    assert (settings["slots"], settings["queue_timeout_s"], settings["max_jobs"]) == (3, 2.5, 7)


def test_empty_variables_are_absent(monkeypatch, given):
    """But for those of slots and policy, which are errors."""
    for variable in VARIABLES.keys() - {"LLMSCHED_SLOTS", "LLMSCHED_POLICY"}:
        monkeypatch.setenv(variable, "")
    monkeypatch.setenv("LLMSCHED_CONFIG", "")
    default_scheduler()
    assert given == [{}]


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("LLMSCHED_SLOTS", "0"),
        ("LLMSCHED_POLICY", "best"),
        ("LLMSCHED_QUEUE_TIMEOUT_S", "soon"),
        ("LLMSCHED_QUEUE_TIMEOUT_S", "-1"),
        ("LLMSCHED_QUEUE_TIMEOUT_S", "nan"),
        ("LLMSCHED_MAX_JOBS", "0"),
        ("LLMSCHED_MAX_QUEUED", "1.5"),
        ("LLMSCHED_AT_DOOR", "wait"),
        ("LLMSCHED_RECORD", "jobs.jsonl.gz"),
    ],
)
def test_a_bad_value_is_an_error_that_names_the_variable(monkeypatch, variable, text):
    """And what it says."""
    monkeypatch.setenv(variable, text)
    with pytest.raises(ConfigurationError, match=f"^{variable}={text!r} in the environment"):
        default_scheduler()


def test_variables_that_contradict_each_other(monkeypatch):
    """The error of the scheduler comes with their names."""
    monkeypatch.setenv("LLMSCHED_AT_DOOR", "defer")
    with pytest.raises(ConfigurationError, match=r"^settings of LLMSCHED_AT_DOOR: .*give max_jobs"):
        default_scheduler()


def test_an_unknown_variable_is_said_once_with_the_nearest_one(monkeypatch, caplog):
    """When the default scheduler is made; known ones, and others' variables, are not."""
    for variable in (*VARIABLES, "LLMSCHED_URL", "LLMSCHED_CONFIG", "OTHER_SLOT"):
        monkeypatch.setenv(variable, "")
    monkeypatch.delenv("LLMSCHED_SLOTS")
    monkeypatch.delenv("LLMSCHED_POLICY")
    monkeypatch.setenv("LLMSCHED_SLOT", "4")
    monkeypatch.setenv("LLMSCHED_", "4")
    default_scheduler()
    reset_default_scheduler()
    default_scheduler()
    none, near = [record.getMessage() for record in caplog.records]
    assert "the variable LLMSCHED_, which means nothing" in none
    assert "the variable LLMSCHED_SLOT, which means nothing" in near
    assert near.endswith("did you mean 'LLMSCHED_SLOTS'?")


# -- the file ----------------------------------------------------------------------------

FULL = """
policy = "gittins"
queue_timeout_s = 30
max_wait_s = "none"
max_jobs = 100
at_door = "defer"
closed_tenants = true

[tenants]
gold = 3
trial = {weight = 1, max_slots = 2}

[[backends]]
name = "gpu"
slots = 16
models = ["llama-*"]
prices = {"llama-*" = [0.5, 1]}

[[backends]]
name = "api"
slots = {low = 2, high = 32, start = 4}
requests_per_minute = 500
per_account = true
"""


def test_keys_are_the_names_of_arguments(config, given):
    """Of `Scheduler`, `Backend`, `Auto` and `Tenant`."""
    config(FULL)
    assert given == [
        {
            "policy": "gittins",
            "queue_timeout_s": 30,
            "max_wait_s": None,
            "max_jobs": 100,
            "at_door": "defer",
            "closed_tenants": True,
            "tenants": {"gold": 3, "trial": Tenant(1, max_slots=2)},
            "backends": [
                Backend("gpu", 16, ["llama-*"], prices={"llama-*": (0.5, 1)}),
                Backend("api", Auto(2, 32, 4), requests_per_minute=500, per_account=True),
            ],
        }
    ]


@pytest.mark.parametrize(
    ("text", "slots"), [("", 8), ("slots = 5", 5), ('slots = "auto"', 8), ("slots = {start = 3}", 3)]
)
def test_slots_of_the_only_backend(config, text, slots):
    """A number, or what finds it."""
    assert config(text).statistics().slots == slots


PLAIN = {
    "slots": 2,
    "policy": "srtf",
    "queue_timeout_s": 1.5,
    "max_wait_s": 1,
    "overdue_every": 4,
    "tenants": {"a": 1},
    "closed_tenants": False,
    "profiles": "profiles",
    "record": "jobs.jsonl",
    "save_on_sigterm": False,
    "follow_threads": False,
    "outside": "gate",
    "trust_config": True,
    "on_budget": "yield",
    "max_jobs": 1,
    "max_queued": 2,
    "at_door": "refuse",
    "name": "assistants",
    "fallback": "local",
}


def test_every_plain_setting_of_the_scheduler_can_be_there(config, given):
    """All but functions, a profile, and the URL, which needs a server."""
    assert {*PLAIN, "backends", "url", "assign", "profile", "clock"} == set(
        inspect.signature(Scheduler).parameters
    )
    lines = [
        f"{name} = {str(value).lower() if isinstance(value, bool) else repr(value)}"
        for name, value in PLAIN.items()
        if name != "tenants"
    ]
    config("\n".join([*lines, "[tenants]", "a = 1"]))
    assert given == [PLAIN]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slotz = 3", r": slotz is no setting: did you mean 'slots'\?"),
        (
            "[[backends]]\nname='a'\nretires=2",
            r": backends\[0\].retires is no setting: did you mean 'retries'",
        ),
        ("[[backends]]\n[[backends]]\nslots={hi=2}", r": backends\[1\].slots.hi is no setting: .*'high'"),
        ("[tenants]\ngold={wait=2}", r": tenants.gold.wait is no setting: did you mean 'weight'"),
        ("[[backends]]\nname='a'\nretries=-1", r": backends\[0\]: backend 'a': retries must be"),
        ("[[backends]]\nslots={low=0}", r": backends\[0\].slots: Auto: low must be"),
        ("[tenants]\ngold={weight=0}", r": tenants.gold: the weight of a tenant must be"),
        ("[tenants]\ngold='3'", r": tenants: 'gold': the weight of a tenant must be"),
        ("tenants = 3", r": tenants must be a dict"),
        ("[backends]\nname='a'", r": backends must be tables, each under \[\[backends\]\]"),
        ("max_jobs = 'many'", r": max_jobs must be a whole number"),
        ("policy = 'best'", r": unknown policy 'best'"),
        ("max_jobs = 2020-01-01", r": max_jobs must be"),
        ("assign = 'mine'", r": assign is no plain value: give it to Scheduler in the program"),
        ("slots 3", r" is no TOML file: .*line 1"),
    ],
)
def test_an_error_names_the_file_and_the_key(config, text, message):
    """With the nearest key, if there is no such key."""
    assert re.match(rf"( \(LLMSCHED_CONFIG\))?{message}", refused(config, text))


def test_a_file_that_is_not_there(monkeypatch):
    """Is an error, and a scheduler is made once it is there, or the variable is not."""
    monkeypatch.setenv("LLMSCHED_CONFIG", "missing.toml")
    with pytest.raises(ConfigurationError, match=r"^LLMSCHED_CONFIG: missing\.toml cannot be read: No"):
        default_scheduler()
    monkeypatch.delenv("LLMSCHED_CONFIG")
    assert default_scheduler().statistics().slots == 8


def test_a_file_that_is_no_text(monkeypatch, tmp_path):
    """Is an error of the same kind."""
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe")
    monkeypatch.setenv("LLMSCHED_CONFIG", "x.toml")
    with pytest.raises(ConfigurationError, match=r"^LLMSCHED_CONFIG: x\.toml is no TOML file"):
        default_scheduler()


def test_variables_go_before_the_file(monkeypatch, config, given):
    """Setting by setting; the URL of the environment, too."""
    monkeypatch.setenv("LLMSCHED_SLOTS", "3")
    monkeypatch.setenv("LLMSCHED_MAX_JOBS", "4")
    monkeypatch.setenv("LLMSCHED_URL", "redis://127.0.0.1:1")
    config('slots = 5\nmax_jobs = 6\nmax_queued = 7\nurl = "redis://other:1"')
    assert given == [{"slots": 3, "max_jobs": 4, "max_queued": 7}]


def test_slots_of_the_environment_and_backends_of_the_file(monkeypatch, config):
    """Contradict each other: neither is dropped silently."""
    monkeypatch.setenv("LLMSCHED_SLOTS", "3")
    assert re.match(r" has backends, .*: unset LLMSCHED_SLOTS$", refused(config, FULL))
