"""What importing the package brings in, and what it does not."""

from __future__ import annotations

import subprocess
import sys

import pytest

import llmsched_langgraph

HEAVY = [
    "numpy",
    "pgmpy",
    "pandas",
    "scipy",
    "sklearn",
    "tiktoken",
    "openai",
    "starlette",
    "uvicorn",
    "redis",
    "matplotlib",
    "prometheus_client",
]


@pytest.mark.parametrize(
    "statement",
    [
        "import llmsched_langgraph",
        "from llmsched_langgraph import schedule, Scheduler, wrap_openai, Backend, Profile",
        "import llmsched_langgraph.cli.main",
        "import llmsched_langgraph.observe",
    ],
)
def test_import_is_light(statement):
    """No import of a public name pulls in a heavy module."""
    code = f"{statement}\nimport sys\nprint([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_observing_imports_opentelemetry_late():
    """Others import it, langsmith for example; this package when something is to be exported."""
    code = "import llmsched_langgraph.observe, sys; print('opentelemetry' in sys.modules)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("False", "")


def test_every_public_name_is_there():
    """`__all__` is sorted, complete, and every name in it can be had."""
    assert list(llmsched_langgraph.__all__) == sorted(llmsched_langgraph.__all__)
    for name in llmsched_langgraph.__all__:
        assert getattr(llmsched_langgraph, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        llmsched_langgraph.nonsense  # noqa: B018
