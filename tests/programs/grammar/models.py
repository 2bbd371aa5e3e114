"""The models of programs, as ingredients.

Does not make calls: `programs.stage.models` has the classes that they are written as.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from programs.features import Feature
from programs.grammar.page import Page

PAUSES_MS = (0, 1, 3)


@dataclass(frozen=True)
class Leaf:
    """A model that is a backend's: `programs.stage.models`.

    Attributes:
        kind: its class.
        pause_ms: what a request takes.
        fails: which attempts at a prompt fail.
    """

    kind: Literal["Plain", "Streaming", "SyncOnly", "AsyncOnly"] = "Plain"
    pause_ms: int = 0
    fails: Literal["never", "first", "always"] = "never"

    fans_out: ClassVar[bool] = False
    FEATURES: ClassVar = {
        "Streaming": Feature.STREAMING,
        "SyncOnly": Feature.SYNC_ONLY,
        "AsyncOnly": Feature.ASYNC_ONLY,
    }

    @property
    def async_only(self) -> bool:
        """Whether it has no synchronous call."""
        return self.kind == "AsyncOnly"

    def define(self, page: Page) -> str:
        """Write its definition; its name."""
        name = page.name("model")
        if self.kind in self.FEATURES:
            page.note(self.FEATURES[self.kind])
        if self.kind == "SyncOnly" and page.in_slot:
            page.note(Feature.OUTLIVES_SLOT)
        more = ""
        if self.pause_ms:
            more += f", pause_s={self.pause_ms / 1000}"
        if self.fails != "never":
            page.note(Feature.FAILING)
            more += f", fails={self.fails!r}"
        page.line(f"{name} = {self.kind}(on=on, name={name!r}{more})")
        return name


@dataclass(frozen=True)
class House:
    """A fake of `llmsched_langgraph.testing`, which says the same to every prompt."""

    kind: Literal["PlainModel", "StreamingModel", "SyncOnlyModel"] = "PlainModel"
    async_only: ClassVar[bool] = False
    fans_out: ClassVar[bool] = False

    def define(self, page: Page) -> str:
        """Write its definition; its name."""
        page.note(Feature.HOUSE)
        if self.kind == "SyncOnlyModel" and page.in_slot:
            page.note(Feature.OUTLIVES_SLOT)
        name = page.name("model")
        page.line(f"{name} = testing.{self.kind}(meter=on.meter)")
        return name


@dataclass(frozen=True)
class Chained:
    """A model that asks another one."""

    of: Any

    @property
    def async_only(self) -> bool:
        """Whether it has no synchronous call."""
        return bool(self.of.async_only)

    @property
    def fans_out(self) -> bool:
        """Whether it makes calls at once."""
        return bool(self.of.fans_out)

    def define(self, page: Page) -> str:
        """Write its definition; its name."""
        page.note(Feature.CHAINED)
        of = within_a_model(self.of, page)
        name = page.name("model")
        page.line(f"{name} = Router(on=on, name={name!r}, of={of})")
        return name


@dataclass(frozen=True)
class Ensemble:
    """A model that asks another one several times at once."""

    of: Any
    width: int = 2
    how: Literal["batch", "pool"] = "batch"
    fans_out: ClassVar[bool] = True

    @property
    def async_only(self) -> bool:
        """Whether it has no synchronous call."""
        return bool(self.of.async_only)

    def define(self, page: Page) -> str:
        """Write its definition; its name."""
        page.note(Feature.ENSEMBLE)
        if self.how == "pool":
            page.note(Feature.UNMARKED_THREADS)
        of = within_a_model(self.of, page)
        name = page.name("model")
        page.line(f"{name} = Vote(on=on, name={name!r}, of={of}, width={self.width}, how={self.how!r})")
        return name


@dataclass(frozen=True)
class Delegating:
    """A model that runs a graph."""

    graph: Any
    fans_out: ClassVar[bool] = True

    @property
    def async_only(self) -> bool:
        """Whether it has no synchronous call."""
        return bool(self.graph.async_only)

    def define(self, page: Page) -> str:
        """Write its definition; its name."""
        page.note(Feature.DELEGATING)
        graph = within_a_model(self.graph, page)
        name = page.name("model")
        page.line(f"{name} = Delegate(on=on, name={name!r}, graph={graph})")
        return name


def within_a_model(thing: Any, page: Page) -> str:
    """Define a model or a graph that a model calls; its name."""
    around, page.in_slot = page.in_slot, True
    name = page.defined(thing)
    page.in_slot = around
    return name
