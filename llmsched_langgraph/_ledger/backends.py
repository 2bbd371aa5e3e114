"""Defines the settings of a backend.

Does not hold slots: the ledger does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from llmsched_langgraph._arguments import check_flag, positive_limit, whole_limit, whole_number
from llmsched_langgraph._ledger.auto import Auto
from llmsched_langgraph._ledger.capacity import CapacitySettings
from llmsched_langgraph._ledger.prices import Prices
from llmsched_langgraph._ledger.rates import Rates, rates_of
from llmsched_langgraph.errors import ConfigurationError

DEFAULT_SLOTS = 8

_ACCOUNT = "#"
"""Stands between the name of a backend and the hash of an account."""


SLOTS, QUEUED = "the calls that the backend serves at once", "the calls that may wait"
"""What the numbers count, for the messages of errors."""


@dataclass(frozen=True, slots=True)
class Backend:
    """A pool of slots that serves some models.

    A call belongs to the first backend that claims it: one of `models` matches a name of its model or
    deployment, or one of `base_urls` matches the URL that it goes to. Both may be globs (`fnmatch`: `*`, `?`,
    `[...]`), and case matters. A backend without both serves every call that no other one claims.
    With `models=[]` it serves no model: it is for the tools that `SchedulerMiddleware(tools=...)` names.

    Attributes:
        name: its name in messages and statistics.
        slots: maximum number of concurrent calls, at least 1. "auto" and `Auto(low, high, start)` find it
            from how calls end: just below where the backend refuses, or where one more brings no throughput.
        models: the models that it serves, such as "gpt-4o", "llama-*" or the name of an Azure deployment.
            An empty list for none.
        base_urls: the URLs that it answers at, such as "http://gpu-1:8000/v1"; they include what is below.
        queue_timeout_s: maximum wait of a call for a slot, in seconds; None for that of the scheduler.
        requests_per_minute: limit of calls granted in any minute; None for no limit, as with all rates.
        requests_per_day: the same in any 24 hours.
        tokens_per_minute: limit of the tokens, input and output, counted in any minute.
        input_tokens_per_minute, output_tokens_per_minute: the same of each kind.
        per_account: whether each account has these limits for itself: slots, rates, `max_queued`, and pauses
            after a refusal. An account is the key that a call is sent with (of a LangChain model, of a client
            of `wrap_openai`, or `slot(account=...)`); of keys only hashes are kept. Calls without a key, such
            as those whose library finds the credentials by itself, share one account.
        retries: how often a request of a LangChain model that was refused or not answered is sent again,
            after the model's own library gave up and before the first token. It keeps the place of its call.
        max_queued: maximum number of calls that wait; None for no limit. A call that would be one more fails
            at once with `OverloadedError`, also one of a run in progress, whose node fails with it. Further
            attempts of a call wait in any case. `Scheduler(max_queued=...)` refuses whole runs, before they
            begin.
        replicas: the servers that share its calls, such as ["http://gpu-1:8000", "http://gpu-2:8000"]; None
            for the one that the model names. Each call goes to the one with the fewest calls, so of n
            replicas none gets more than 1/n of `slots` at once, rounded up. The path of a request stays.
            For LangChain models and clients of `wrap_openai` whose library is httpx or aiohttp.
        prices: price of a million input and output tokens, by model glob: {"gpt-4o*": (2.5, 10.0)}. The first
            glob that matches a name of a call counts. None if the cost of calls is unknown.

    Raises:
        ConfigurationError: `slots` is below 1, a rate is no whole number of at least 1, the name is empty,
            `models` or `base_urls` is not a list of names or URLs, `queue_timeout_s` is not positive, or
            `prices` are invalid.
    """

    name: str = "default"
    slots: int | Auto | Literal["auto"] = DEFAULT_SLOTS
    models: tuple[str, ...] | None = None
    base_urls: tuple[str, ...] | None = None
    queue_timeout_s: float | None = None
    prices: Mapping[str, tuple[float, float]] | None = None
    requests_per_minute: int | None = field(default=None, kw_only=True)
    requests_per_day: int | None = field(default=None, kw_only=True)
    tokens_per_minute: int | None = field(default=None, kw_only=True)
    input_tokens_per_minute: int | None = field(default=None, kw_only=True)
    output_tokens_per_minute: int | None = field(default=None, kw_only=True)
    retries: int = field(default=0, kw_only=True)
    per_account: bool = field(default=False, kw_only=True)
    max_queued: int | None = field(default=None, kw_only=True)
    replicas: tuple[str, ...] | None = field(default=None, kw_only=True)
    settings: CapacitySettings = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ConfigurationError(
                f"a backend needs a name that is a text and not empty, such as 'gpu', not {self.name!r:.80}"
            )
        what = f"backend {self.name!r}"
        check_flag(self.per_account, f"{what}: per_account")
        slots = as_slots(self.slots, f"{what}: slots")
        object.__setattr__(self, "slots", slots)
        whole_number(self.retries, f"{what}: retries", least=0)
        whole_limit(self.max_queued, f"{what}: max_queued", QUEUED)
        rates = rates_of(self.name, **{name: getattr(self, name) for name in Rates._fields})
        for name, limit in zip(Rates._fields, rates or Rates(), strict=True):
            object.__setattr__(self, name, limit)  # as a whole number
        object.__setattr__(self, "settings", CapacitySettings(slots, rates))
        object.__setattr__(self, "models", _texts(self.models, f"{what}: models", "names"))
        urls = _texts(self.base_urls, f"{what}: base_urls", "URLs")
        if urls == ():
            raise ConfigurationError(f"{what} has no base URL; name some, or leave base_urls out for all")
        for url in urls or ():
            if "://" not in url and not url.startswith("*"):
                raise ConfigurationError(
                    f'{what}: base_urls has {url!r}; write a URL, such as "http://{url}", or a glob such as '
                    f'"*://{url}"'
                )
        object.__setattr__(self, "base_urls", urls and tuple(url.rstrip("/") for url in urls))
        replicas = _texts(self.replicas, f"{what}: replicas", "URLs")
        if replicas == ():
            raise ConfigurationError(f"{what} has no replica; name some, or leave replicas out")
        object.__setattr__(self, "replicas", replicas and _origins(replicas, f"{what}: replicas"))
        positive_limit(self.queue_timeout_s, f"{what}: queue_timeout_s", "seconds", finite=False)
        if self.prices is not None:
            object.__setattr__(self, "prices", Prices(self.prices, f"{what}: prices"))

    @property
    def shared(self) -> str:
        """The name of the backend that this is an account of; its own name if it is none."""
        return self.name.partition(_ACCOUNT)[0] if self.per_account else self.name


def account_name(backend: str, account: str) -> str:
    """Return the name of what serves an account of a backend, given the hash of the account."""
    return f"{backend}{_ACCOUNT}{account}"


def _texts(given: object, what: str, items: str) -> tuple[str, ...] | None:
    """Return the strings of a list, or None for None."""
    if given is None:
        return None
    if isinstance(given, str):
        raise ConfigurationError(
            f"{what} must be a list of {items}, e.g. {what.rpartition(' ')[2]}=({given!r},)"
        )
    if not isinstance(given, Iterable) or isinstance(given, Mapping):
        raise ConfigurationError(f"{what} must be a list of {items}, not {given!r}")
    found = tuple(given)
    for item in found:
        if not isinstance(item, str) or not item:
            raise ConfigurationError(f"{what} must be a list of {items}, but has {item!r}")
    return found


def _origins(replicas: tuple[str, ...], what: str) -> tuple[str, ...]:
    """Return the URLs without a final slash, each once.

    Raises:
        ConfigurationError: one is not scheme, host and port alone.
    """
    for url in replicas:
        split = urlsplit(url)
        if split.scheme not in ("http", "https") or not split.hostname:
            raise ConfigurationError(f'{what} has {url!r}; write a URL, such as "http://gpu-1:8000"')
        if split.path.strip("/") or split.query or split.fragment or "@" in split.netloc:
            raise ConfigurationError(
                f"{what} has {url!r}; write scheme, host and port alone: a request keeps its own path"
            )
    return tuple(dict.fromkeys(url.rstrip("/") for url in replicas))


def as_slots(slots: object, what: str) -> int | Auto:
    """Return `slots` as a number, or as the bounds within which the ledger finds it.

    Raises:
        ConfigurationError: it is neither; the message begins with `what`.
    """
    if slots == "auto":
        return Auto()
    if isinstance(slots, str):
        raise ConfigurationError(
            f'{what} must be a whole number of at least 1, "auto" or Auto(...), not {slots!r}'
        )
    return slots if isinstance(slots, Auto) else whole_number(slots, what, SLOTS)
