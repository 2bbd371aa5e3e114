"""Shortest-remaining-work-first scheduling of LangGraph agents that share one LLM backend.

from llmsched_langgraph import schedule

agent = schedule(builder.compile())
results = await asyncio.gather(*(agent.ainvoke(question) for question in questions))
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from llmsched_langgraph._version import __version__

if TYPE_CHECKING:
    from llmsched_langgraph._adapter.graph import schedule
    from llmsched_langgraph._adapter.middleware import SchedulerMiddleware
    from llmsched_langgraph._adapter.openai_client import wrap_openai
    from llmsched_langgraph._application.application import Application
    from llmsched_langgraph._belief.profile.profile import Profile
    from llmsched_langgraph._compiler.compile import compile_graph
    from llmsched_langgraph._core.budgets import Budget, Overrun, Spending
    from llmsched_langgraph._core.policies import Policy
    from llmsched_langgraph._ledger.auto import Auto
    from llmsched_langgraph._ledger.backends import Backend
    from llmsched_langgraph._ledger.tenants import Tenant
    from llmsched_langgraph._observe.explanation import Explanation
    from llmsched_langgraph._runtime.default import (
        default_scheduler,
        reset_default_scheduler,
        set_default_scheduler,
    )
    from llmsched_langgraph._runtime.scheduler import Scheduler
    from llmsched_langgraph._runtime.statistics import Statistics
    from llmsched_langgraph.errors import (
        BudgetExceededError,
        CallCancelledError,
        ConfigurationError,
        DeadlineExceededError,
        InvalidDataError,
        LedgerUnreachableError,
        LLMSchedError,
        OverloadedError,
        QueueTimeoutError,
        SchedulerClosedError,
        UnknownModelError,
        UnknownRunError,
        UnsupportedGraphError,
    )

__all__ = [
    "Application",
    "Auto",
    "Backend",
    "Budget",
    "BudgetExceededError",
    "CallCancelledError",
    "ConfigurationError",
    "DeadlineExceededError",
    "Explanation",
    "InvalidDataError",
    "LLMSchedError",
    "LedgerUnreachableError",
    "OverloadedError",
    "Overrun",
    "Policy",
    "Profile",
    "QueueTimeoutError",
    "Scheduler",
    "SchedulerClosedError",
    "SchedulerMiddleware",
    "Spending",
    "Statistics",
    "Tenant",
    "UnknownModelError",
    "UnknownRunError",
    "UnsupportedGraphError",
    "__version__",
    "compile_graph",
    "default_scheduler",
    "reset_default_scheduler",
    "schedule",
    "set_default_scheduler",
    "wrap_openai",
]

if find_spec("langchain") is None:  # without the extra `agents`, `import *` would fail
    __all__ = [name for name in __all__ if name != "SchedulerMiddleware"]

_HOMES = {
    "_adapter.graph": ("schedule",),
    "_adapter.middleware": ("SchedulerMiddleware",),
    "_adapter.openai_client": ("wrap_openai",),
    "_belief.profile.profile": ("Profile",),
    "_compiler.compile": ("compile_graph",),
    "_core.budgets": ("Budget", "Overrun", "Spending"),
    "_core.policies": ("Policy",),
    "_application.application": ("Application",),
    "errors": (
        "BudgetExceededError",
        "CallCancelledError",
        "ConfigurationError",
        "DeadlineExceededError",
        "InvalidDataError",
        "LLMSchedError",
        "OverloadedError",
        "QueueTimeoutError",
        "LedgerUnreachableError",
        "SchedulerClosedError",
        "UnknownModelError",
        "UnknownRunError",
        "UnsupportedGraphError",
    ),
    "_observe.explanation": ("Explanation",),
    "_runtime.default": ("default_scheduler", "reset_default_scheduler", "set_default_scheduler"),
    "_ledger.tenants": ("Tenant",),
    "_ledger.auto": ("Auto",),
    "_ledger.backends": ("Backend",),
    "_runtime.scheduler": ("Scheduler",),
    "_runtime.statistics": ("Statistics",),
}


def __getattr__(name: str) -> object:
    # Names are imported on first use: importing the package alone does not import LangGraph.
    import importlib

    for module, names in _HOMES.items():
        if name in names:
            value: object = getattr(importlib.import_module(f"{__name__}.{module}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
