"""Combines what is measured of several schedulers that one registry or meter provider exports.

Does not export anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from llmsched_langgraph._observe.bounds import Bounded
from llmsched_langgraph._observe.measures import Measures, Spread
from llmsched_langgraph._observe.metrics import DEPTH, IN_USE, LIMIT, PAUSED, Labels, Metric
from llmsched_langgraph.errors import ConfigurationError


class Level(NamedTuple):
    """The state of one backend at one moment: slots, slots held, calls that wait, seconds of pause left."""

    backend: str
    slots: int = 0
    holding: int = 0
    waiting: int = 0
    paused_s: float = 0.0


class Source(NamedTuple):
    """One observed scheduler.

    Attributes:
        name: the name under which it is observed.
        measures: its totals.
        levels: returns the state of its backends now.
    """

    name: str
    measures: Measures
    levels: Callable[[], Sequence[Level]]


_FIELDS: dict[Metric, Callable[[Level], float]] = {
    DEPTH: lambda level: level.waiting,
    IN_USE: lambda level: level.holding,
    LIMIT: lambda level: level.slots,
    PAUSED: lambda level: level.paused_s,
}


class Sources:
    """The schedulers that one registry or meter provider exports, by their names. Thread-safe."""

    def __init__(self) -> None:
        self._sources: dict[str, Source] = {}
        self._backends = Bounded()

    def add(self, source: Source) -> None:
        """Add a scheduler.

        Raises:
            ConfigurationError: another one is observed under its name.
        """
        if self._sources.setdefault(source.name, source) is not source:
            raise ConfigurationError(
                f"a scheduler is already observed as {source.name!r}; give this one another name="
            )

    def remove(self, source: Source) -> None:
        """Remove a scheduler, unless another one has its name now."""
        if self._sources.get(source.name) is source:
            del self._sources[source.name]

    def __len__(self) -> int:
        return len(self._sources)

    def levels(self) -> list[tuple[str, Level]]:
        """Return the state of all backends now, with the names of their schedulers. Updates the totals."""
        return [
            (source.name, level._replace(backend=self._backends(level.backend)))
            for source in tuple(self._sources.values())
            for level in source.levels()
        ]

    def counts(self, metric: Metric) -> Iterator[tuple[Labels, float]]:
        """Yield the series of a counter."""
        for source in tuple(self._sources.values()):
            for labels, value in source.measures.counters[metric].copy().items():
                yield (source.name, *labels), value

    def spreads(self, metric: Metric) -> Iterator[tuple[Labels, Spread]]:
        """Yield the series of a histogram."""
        for source in tuple(self._sources.values()):
            for labels, value in source.measures.spreads[metric].copy().items():
                yield (source.name, *labels), value


def gauged(metric: Metric, levels: Sequence[tuple[str, Level]]) -> Iterator[tuple[Labels, float]]:
    """Yield the series of a gauge."""
    of = _FIELDS[metric]
    for scheduler, level in levels:
        yield (scheduler, level.backend), of(level)
