"""The axes of the matrix: how a model is called, what its first request meets, and what is left out, and why.

Runs nothing (`scene`), and does not say what must hold (`judge`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from .table import Provider

FAULTS = ("200", "429", "500", "reset", "hang", "cut", "202", "429 alone", "503", "529")
"""What the first request of a cell meets.

200: an answer, held up behind the first piece of its body. 429: a refusal with Retry-After; 429 alone:
without. 500, 503, 529: an error. reset: the connection is reset before the head. hang: an answer, held up
before its head. cut: the connection is reset behind the first piece of the body. 202: the request is
accepted, and its answer is to be fetched.
"""
STATUSES = {"429": 429, "429 alone": 429, "500": 500, "503": 503, "529": 529}
PAUSE_S = 1
"""What Retry-After says, and how long a backend rests after a refusal that says nothing."""
PAUSING = ("429", "429 alone", "503", "529")
SLOTS = (1, 2)


@dataclass(frozen=True)
class Way:
    """How the node of a graph calls its model, and how the run ends.

    Attributes:
        name: of the way.
        base: what the provider package sees of it.
        calls: how many calls each run makes at once.
        ends: what becomes of the run: "finish"; "break", the node leaves its stream after the first word;
            "close", the consumer of the graph's stream does; "cancel", the run is cancelled; "time out", the
            package gives the request up.
    """

    name: str
    base: Literal["invoke", "ainvoke", "stream", "astream"]
    calls: int = 1
    ends: Literal["finish", "break", "close", "cancel", "time out"] = "finish"

    @property
    def asynchronous(self) -> bool:
        return self.base.startswith("a")

    @property
    def leaves(self) -> bool:
        """Whether streams are left after their first word."""
        return self.ends in ("break", "close")


WAYS = (
    Way("invoke", "invoke"),
    Way("ainvoke", "ainvoke"),
    Way("stream", "stream"),
    Way("astream", "astream"),
    Way("batch", "invoke", calls=2),
    Way("abatch", "ainvoke", calls=2),
    Way("astream_events", "astream"),
    Way("stream broken off", "stream", ends="break"),
    Way("astream broken off", "astream", ends="break"),
    Way("astream closed", "astream", ends="close"),
    Way("ainvoke cancelled", "ainvoke", ends="cancel"),
    Way("astream cancelled", "astream", ends="cancel"),
    Way("invoke timed out", "invoke", ends="time out"),
    Way("ainvoke timed out", "ainvoke", ends="time out"),
    Way("stream timed out", "stream", ends="time out"),
    Way("astream timed out", "astream", ends="time out"),
)


@dataclass(frozen=True)
class Cell:
    """One scene: which package, how called, what its first request meets, on how many slots."""

    provider: Provider
    way: Way
    fault: str
    slots: int

    def __str__(self) -> str:
        return f"{self.provider.name}-{self.way.name}-{self.fault}-{self.slots}"

    @property
    def callers(self) -> int:
        """How many runs there are at once: one more than the slots serve."""
        return self.slots + 1

    @property
    def refused(self) -> bool:
        """Whether the first request is not answered."""
        return self.fault in STATUSES or self.fault in ("reset", "cut")

    @property
    def retried(self) -> bool:
        """Whether the package sends the first request again."""
        fault = "timeout" if self.way.ends == "time out" else self.fault.removesuffix(" alone")
        return (fault, self.way.base) in self.provider.retries

    @property
    def uncertain(self) -> bool:
        """Whether a cancellation may find no thread in the request: between two pieces of a stream."""
        streams = self.way.base == "astream" and self.fault == "200"
        return self.provider.threads and self.way.ends == "cancel" and streams


LEFT_OUT: list[tuple[str, Callable[[Cell], bool]]] = [
    (
        "what times out is what hangs",
        lambda cell: cell.way.ends == "time out" and cell.fault != "hang",
    ),
    (
        "the package does not fetch what was accepted",
        lambda cell: cell.fault == "202" and cell.way.base not in cell.provider.polls,
    ),
    (
        "of work that goes on at the server the client cannot say that it left it",
        lambda cell: cell.fault == "202" and cell.way.ends != "finish",
    ),
    (
        "refusals differ in the pause that they begin, and that is the same for all ways of calling",
        lambda cell: (
            cell.fault in ("429 alone", "503", "529")
            and (cell.slots > 1 or cell.way.ends != "finish" or cell.way.name != cell.way.base)
        ),
    ),
    (
        "the package takes no timeout",
        lambda cell: cell.way.ends == "time out" and cell.provider.timeout is None,
    ),
    (
        "a stream that the server cuts need not be left",
        lambda cell: cell.way.leaves and cell.fault == "cut",
    ),
    (
        "a run that has failed can be neither left nor cancelled",
        lambda cell: cell.way.ends in ("break", "close", "cancel") and cell.refused and not cell.retried,
    ),
    (
        "a thread that reads on cannot be made to leave: see what is cancelled in its body",
        lambda cell: cell.way.ends == "close" and cell.provider.threads and cell.fault != "200",
    ),
    (
        "a thread in its back-off cannot be cancelled, and botocore's back-off may be no time at all",
        lambda cell: cell.way.ends == "cancel" and cell.refused and cell.provider.threads,
    ),
]


def reason_to_leave_out(cell: Cell) -> str | None:
    """Return why there is no such scene; None if there is one."""
    return next((reason for reason, applies in LEFT_OUT if applies(cell)), None)


def cells(providers: Iterable[Provider]) -> Iterator[Cell]:
    """Yield every scene of these providers."""
    for provider, way, fault, slots in itertools.product(providers, WAYS, FAULTS, SLOTS):
        cell = Cell(provider, way, fault, slots)
        if reason_to_leave_out(cell) is None:
            yield cell
