"""Shortest-remaining-work-first scheduling of LangGraph agents that share one LLM backend.

from llmsched_langgraph import schedule

agent = schedule(builder.compile())
results = await asyncio.gather(*(agent.ainvoke(question) for question in questions))
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmsched_langgraph._version import __version__

if TYPE_CHECKING:
    from llmsched_langgraph.adapter.graph import schedule
    from llmsched_langgraph.adapter.middleware import SchedulerMiddleware
    from llmsched_langgraph.adapter.openai_client import wrap_openai
    from llmsched_langgraph.belief.profile import Profile
    from llmsched_langgraph.compiler.compile import compile_graph
    from llmsched_langgraph.core.policies import Policy
    from llmsched_langgraph.dag.application import Application
    from llmsched_langgraph.errors import (
        ConfigurationError,
        InvalidDataError,
        LLMSchedError,
        QueueTimeoutError,
        SchedulerClosedError,
        UnknownModelError,
        UnsupportedGraphError,
    )
    from llmsched_langgraph.ledger.values import Backend
    from llmsched_langgraph.runtime.default import (
        default_scheduler,
        reset_default_scheduler,
        set_default_scheduler,
    )
    from llmsched_langgraph.runtime.scheduler import Scheduler, Statistics

__all__ = [
    "Application",
    "Backend",
    "ConfigurationError",
    "InvalidDataError",
    "LLMSchedError",
    "Policy",
    "Profile",
    "QueueTimeoutError",
    "Scheduler",
    "SchedulerClosedError",
    "SchedulerMiddleware",
    "Statistics",
    "UnknownModelError",
    "UnsupportedGraphError",
    "__version__",
    "compile_graph",
    "default_scheduler",
    "reset_default_scheduler",
    "schedule",
    "set_default_scheduler",
    "wrap_openai",
]

_HOMES = {
    "adapter.graph": ("schedule",),
    "adapter.middleware": ("SchedulerMiddleware",),
    "adapter.openai_client": ("wrap_openai",),
    "belief.profile": ("Profile",),
    "compiler.compile": ("compile_graph",),
    "core.policies": ("Policy",),
    "dag.application": ("Application",),
    "errors": (
        "ConfigurationError",
        "InvalidDataError",
        "LLMSchedError",
        "QueueTimeoutError",
        "SchedulerClosedError",
        "UnknownModelError",
        "UnsupportedGraphError",
    ),
    "runtime.default": ("default_scheduler", "reset_default_scheduler", "set_default_scheduler"),
    "ledger.values": ("Backend",),
    "runtime.scheduler": ("Scheduler", "Statistics"),
}


def __getattr__(name: str) -> object:
    # Names are loaded on first use: a program that imports the package for one of them does not
    # pay for LangGraph, and one that imports LangGraph anyway pays next to nothing more.
    import importlib

    for module, names in _HOMES.items():
        if name in names:
            value: object = getattr(importlib.import_module(f"{__name__}.{module}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
