"""What the tests of all commands share."""

from __future__ import annotations

import pytest

from llmsched_langgraph.cli.main import main


@pytest.fixture
def refuses(capsys):
    """Asserts that a command line says what is wrong, in one line with these words, and does nothing else."""

    def check(arguments, words):
        assert main(list(arguments)) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("llmsched: ")
        assert err.count("\n") == 1
        assert words in err

    return check
