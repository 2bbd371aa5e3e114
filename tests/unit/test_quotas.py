"""What headers of providers say of their limits, and that nonsense says nothing."""

from __future__ import annotations

import pytest

from llmsched_langgraph._ledger.quotas import LONGEST_S, REFILL_S, Quota, Quotas, quotas_of

DATE = "Fri, 27 Nov 2026 12:00:00 GMT"


def openai(limit="100", remaining="40", reset="6s", kind="tokens"):
    given = {"limit": limit, "remaining": remaining, "reset": reset}
    return {f"x-ratelimit-{name}-{kind}": value for name, value in given.items() if value is not None}


def test_openai():
    headers = openai() | openai("60", "59", "1s", "requests")
    assert quotas_of(headers) == Quotas(Quota(60, 59, 1.0), Quota(100, 40, 6.0))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1s", 1.0),
        ("6m0s", 360.0),
        ("20ms", 0.02),
        ("1h2m3s", 3723.0),
        ("1m26.4s", 86.4),
        ("7.66s", 7.66),
        ("1d", 86_400.0),
        ("59.7", 59.7),
        (" 3s ", 3.0),
    ],
)
def test_durations(text, seconds):
    assert quotas_of(openai(reset=text)).tokens.reset_s == pytest.approx(seconds)


def test_anthropic_by_the_date_of_the_answer():
    headers = {"Date": DATE}
    for kind in ("requests", "input-tokens", "output-tokens"):
        headers |= {
            f"anthropic-ratelimit-{kind}-limit": "80000",
            f"Anthropic-Ratelimit-{kind}-Remaining": "79000",
            f"anthropic-ratelimit-{kind}-reset": "2026-11-27T12:00:45Z",
        }
    quota = Quota(80_000, 79_000, 45.0)
    assert quotas_of(headers) == Quotas(quota, None, quota, quota)


def test_anthropics_combined_tokens_are_not_a_limit_of_output():
    headers = {
        "date": DATE,
        "anthropic-ratelimit-tokens-limit": "480000",
        "anthropic-ratelimit-tokens-remaining": "0",
        "anthropic-ratelimit-tokens-reset": "2026-11-27T12:01:00Z",
    }
    assert quotas_of(headers) is None


@pytest.mark.parametrize(
    ("reset", "seconds"),
    [
        ("2026-11-27T11:59:00Z", 0.0),  # past
        ("2026-11-27T14:00:30+02:00", 30.0),
        ("2026-11-27T12:00:30", 30.0),
        ("2036-11-27T12:00:30Z", REFILL_S),
        ("2026-13-45T99:00:00Z", REFILL_S),
        ("tomorrow", REFILL_S),
    ],
)
def test_times(reset, seconds):
    headers = {"date": DATE} | openai(reset=reset)
    assert quotas_of(headers).tokens == Quota(100, 40, seconds)


def test_a_time_without_a_date_says_nothing():
    assert quotas_of(openai(reset="2026-11-27T12:00:30Z")).tokens.reset_s == REFILL_S
    assert quotas_of({"date": "yesterday"} | openai(reset="2026-11-27T12:00:30Z")).tokens.reset_s == REFILL_S


def test_retry_after_stands_in_for_a_missing_reset():
    assert quotas_of({"Retry-After": "7"} | openai(reset=None)).tokens.reset_s == 7.0
    headers = {"date": DATE, "retry-after": "Fri, 27 Nov 2026 12:00:09 GMT"}
    assert quotas_of(headers | openai(reset="")).tokens.reset_s == 9.0


NONSENSE = [
    "",
    " ",
    "nan",
    "-nan",
    "inf",
    "-1",
    "-0.5",
    "1e400",
    "9" * 400,
    "ten",
    "0x10",
    "\x00",
    "\uff11\uff12 s",
    "s",
    "-6m",
]


@pytest.mark.parametrize("text", [*NONSENSE, None, b"5", 17, ["1"]])
def test_nonsense_is_as_if_missing(text):
    quotas = quotas_of(openai(limit=text, remaining="3"))
    assert quotas.tokens.remaining == 3
    assert quotas.tokens.limit in (None, 5, 17)
    quotas = quotas_of(openai(limit="9", remaining=text))
    assert quotas.tokens.remaining in (None, 5, 17)
    reset_s = quotas_of(openai(reset=text)).tokens.reset_s
    assert 0.0 <= reset_s <= LONGEST_S


def test_a_limit_of_zero_says_nothing():
    assert quotas_of(openai(limit="0")).tokens == Quota(None, 40, 6.0)


def test_without_such_headers_there_is_nothing():
    assert quotas_of({}) is None
    assert quotas_of({"content-type": "application/json", "retry-after": "3", "date": DATE}) is None
    assert quotas_of(openai(limit="x", remaining="y")) is None
