"""The error of a missing extra: its command installs the extra of the package as it was installed here."""

from __future__ import annotations

import json
import re
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from llmsched_langgraph import _extras
from llmsched_langgraph._extras import install, needs_extra
from llmsched_langgraph.errors import ConfigurationError

PACKAGE = Path(_extras.__file__).parent


def installed_from(monkeypatch, origin):
    """Have the package installed from `origin`: None for an index, a dict or text for PEP 610's file."""

    class Distribution:
        def __init__(self, name):
            assert name == "llmsched-langgraph"

        def read_text(self, name):
            assert name == "direct_url.json"
            return json.dumps(origin) if isinstance(origin, dict) else origin

    monkeypatch.setattr(_extras, "distribution", Distribution)


GIT = {"vcs": "git", "commit_id": "0123abcd"}


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        (None, 'pip install "llmsched-langgraph[demo]"'),
        ("torn {", 'pip install "llmsched-langgraph[demo]"'),
        ("[]", 'pip install "llmsched-langgraph[demo]"'),
        ({"url": 5}, 'pip install "llmsched-langgraph[demo]"'),
        ({"url": "file:///home/a%20b/llmsched", "dir_info": {}}, 'pip install "/home/a b/llmsched[demo]"'),
        (
            {"url": "file:///home/ab/llmsched", "dir_info": {"editable": True}},
            'pip install -e "/home/ab/llmsched[demo]"',
        ),
        (
            {"url": "https://host.test/llmsched.whl", "archive_info": {}},
            'pip install "llmsched-langgraph[demo] @ https://host.test/llmsched.whl"',
        ),
        (
            {"url": "https://host.test/llmsched", "vcs_info": {**GIT, "requested_revision": "main"}},
            'pip install "llmsched-langgraph[demo] @ git+https://host.test/llmsched@main"',
        ),
        (
            {"url": "https://host.test/all", "vcs_info": GIT, "subdirectory": "python"},
            'pip install "llmsched-langgraph[demo] @ git+https://host.test/all@0123abcd#subdirectory=python"',
        ),
    ],
)
def test_the_command_names_where_the_package_came_from(monkeypatch, origin, command):
    """An index, a folder, an archive or a repository; a torn record counts as an index."""
    installed_from(monkeypatch, origin)
    assert install("demo") == command


def test_a_package_that_is_not_installed(monkeypatch):
    """Such as one that is found by PYTHONPATH alone."""

    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(_extras, "distribution", missing)
    assert install("agents") == 'pip install "llmsched-langgraph[agents]"'


def test_the_error_names_what_needs_it_and_the_extra(monkeypatch):
    """In one sentence, with the command."""
    installed_from(monkeypatch, None)
    error = needs_extra("the demo", "rich", "demo")
    assert isinstance(error, ConfigurationError)
    assert str(error) == ('the demo needs rich, of the extra `demo`: pip install "llmsched-langgraph[demo]"')
    assert "needs the extra `demo`: pip" in str(needs_extra("the demo", None, "demo"))


def test_every_extra_is_named_through_this_module():
    """No other module writes such a command itself, and each extra that one names exists."""
    project = (PACKAGE.parent / "pyproject.toml").read_text()
    extras = set(re.findall(r"^(\w+) = \[", project.partition("[project.optional-dependencies]")[2], re.M))
    named = set()
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        named |= set(re.findall(r'needs_extra\([^)]*, "(\w+)"\)', text))
        assert path.name == "_extras.py" or "pip install" not in text, path
    assert named == {"agents", "demo", "otel", "plots", "prometheus", "redis", "sim"} <= extras
