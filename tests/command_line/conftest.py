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
    """Have programs that tests start get signals, also where the tests run in the background of a shell."""
    heard = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGHUP: signal.SIG_DFL,
        signal.SIGQUIT: signal.SIG_DFL,
    }
    ignored = [number for number in heard if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, heard[number])
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
