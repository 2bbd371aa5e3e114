"""What the tests of all commands share."""

from __future__ import annotations

import signal
from collections.abc import Iterator

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


@pytest.fixture(autouse=True, scope="session")
def _interrupts() -> Iterator[None]:
    """Have programs that tests start get SIGINT, also where the tests run in the background of a shell."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGINT, before)
