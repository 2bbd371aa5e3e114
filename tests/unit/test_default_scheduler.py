"""The process-wide scheduler: made from the environment on first use, replaced and reset."""

from __future__ import annotations

import threading

import pytest

from llmsched_langgraph import (
    Auto,
    ConfigurationError,
    Scheduler,
    default_scheduler,
    reset_default_scheduler,
    set_default_scheduler,
)
from llmsched_langgraph.policies import POLICIES


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """No default scheduler and no variables, before and after."""
    for variable in ("LLMSCHED_SLOTS", "LLMSCHED_POLICY", "LLMSCHED_RECORD"):
        monkeypatch.delenv(variable, raising=False)
    reset_default_scheduler()
    yield
    reset_default_scheduler()


def test_defaults():
    """Without variables it has eight slots and the documented policy."""
    statistics = default_scheduler().statistics()
    assert (statistics.slots, statistics.policy) == (8, "llmsched")


def test_one_for_all():
    """Everybody gets the same one, also when many threads ask for it at once."""
    barrier = threading.Barrier(8)
    got = []

    def ask():
        barrier.wait(10)
        got.append(default_scheduler())

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(got) == 8
    assert set(got) == {default_scheduler()}


def test_the_environment_is_read_at_first_use(monkeypatch):
    """Variables set before the first use count, later changes do not."""
    monkeypatch.setenv("LLMSCHED_SLOTS", "3")
    monkeypatch.setenv("LLMSCHED_POLICY", "plas")
    scheduler = default_scheduler()
    monkeypatch.setenv("LLMSCHED_SLOTS", "4")
    assert default_scheduler() is scheduler
    assert (scheduler.statistics().slots, scheduler.statistics().policy) == (3, "plas")


def test_the_environment_may_leave_the_slots_to_be_found(monkeypatch):
    monkeypatch.setenv("LLMSCHED_SLOTS", "auto")
    assert default_scheduler()._driver.backends["default"].backend.slots == Auto()


@pytest.mark.parametrize("slots", ["0", "-2", "2.5", "eight", ""])
def test_bad_slots(monkeypatch, slots):
    """A number of slots that cannot be is an error that names the variable and its value."""
    monkeypatch.setenv("LLMSCHED_SLOTS", slots)
    with pytest.raises(ConfigurationError, match=f"LLMSCHED_SLOTS='{slots}'.*at least 1"):
        default_scheduler()


@pytest.mark.parametrize("policy", ["", "best"])
def test_bad_policy(monkeypatch, policy):
    """A policy that is none is an error that names the variable and every policy."""
    monkeypatch.setenv("LLMSCHED_POLICY", policy)
    with pytest.raises(ConfigurationError, match=f"LLMSCHED_POLICY='{policy}'") as caught:
        default_scheduler()
    assert str(caught.value).endswith(", ".join(POLICIES))


def test_it_records_where_the_environment_says(monkeypatch, tmp_path):
    """Nowhere, if the variable is not set or empty."""
    for value, recorded in (("", False), (str(tmp_path / "jobs.jsonl"), True)):
        monkeypatch.setenv("LLMSCHED_RECORD", value)
        reset_default_scheduler()
        with default_scheduler() as scheduler, scheduler.slot():
            pass
        assert (tmp_path / "jobs.jsonl").exists() == recorded


def test_bad_record(monkeypatch, tmp_path):
    """A file that cannot be is an error that names the variable and the cure."""
    monkeypatch.setenv("LLMSCHED_RECORD", str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"LLMSCHED_RECORD=.*is a folder; name a file in it"):
        default_scheduler()


def test_a_mended_environment_works(monkeypatch):
    """An error leaves nothing behind: once the variable is right, so is the next use."""
    monkeypatch.setenv("LLMSCHED_SLOTS", "none")
    with pytest.raises(ConfigurationError):
        default_scheduler()
    monkeypatch.setenv("LLMSCHED_SLOTS", "5")
    assert default_scheduler().statistics().slots == 5


def test_set_and_reset():
    """One's own scheduler takes the place, and a reset makes way for a new one."""
    own = Scheduler(2)
    set_default_scheduler(own)
    assert default_scheduler() is own
    reset_default_scheduler()
    assert default_scheduler() is not own


@pytest.mark.parametrize("thing", [None, 8, Scheduler])
def test_only_a_scheduler_can_be_set(thing):
    """Anything else is refused, and the scheduler that was there stays."""
    before = default_scheduler()
    with pytest.raises(ConfigurationError, match="must be a Scheduler"):
        set_default_scheduler(thing)
    assert default_scheduler() is before
