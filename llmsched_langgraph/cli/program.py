"""Runs a program to its end, passes signals on to it, and returns its exit status.

Does not depend on what the program does.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")
_PASSED_ON = frozenset(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
"""Signals that are passed on to the program: those that end a process by default."""

_OF_TERMINALS = frozenset(
    getattr(signal, name) for name in ("SIGINT", "SIGQUIT", "SIGHUP") if hasattr(signal, name)
)
"""Signals that a terminal sends to each process of its foreground group."""

_POLL_S = 0.2
"""Maximum seconds until the program's end is noticed, if another thread received SIGCHLD."""


def run_program(command: Sequence[str], environment: Mapping[str, str], then: Callable[[], None]) -> int:
    """Run a program with this process's standard streams; return its exit status.

    A program that signal n ended has the status 128 + n, as in shells. Signals to this process are passed on,
    and the program decides what follows. Those of a terminal are not: it sends them to the program itself.

    Args:
        command: the program and its arguments.
        environment: its environment variables.
        then: called when it has ended. No signal interrupts it.

    Raises:
        OSError: the program cannot be started.
    """
    arrived: list[int] = []
    with _handled(arrived) as handled:
        process = subprocess.Popen(command, env=environment)
        with _held_back(handled) as waits:
            while process.poll() is None:
                _wait(process, waits, arrived)
                while arrived:
                    if not _from_terminal(process, arrived[0]):
                        _send(process, arrived[0])
                    del arrived[0]
            then()
    status: int = process.returncode
    return 128 - status if status < 0 else status


@contextmanager
def _handled(arrived: list[int]) -> Iterator[frozenset[int]]:
    """In the block, append arriving signals to `arrived`, except ignored ones; yield their numbers."""
    before: dict[int, Any] = {}
    for number in _PASSED_ON:
        if signal.getsignal(number) not in (signal.SIG_IGN, None):
            before[number] = signal.signal(number, lambda number, frame: arrived.append(number))
    if hasattr(signal, "SIGCHLD"):
        # While SIGCHLD is ignored, the system discards the status of a child.
        before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda number, frame: None)
    try:
        yield frozenset(before)
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextmanager
def _held_back(numbers: frozenset[int]) -> Iterator[frozenset[int]]:
    """In the block, hold signals back for `_wait`; yield their numbers, or none if that is impossible."""
    if not hasattr(signal, "sigtimedwait"):
        yield frozenset()
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield numbers
    finally:
        while signal.sigtimedwait(numbers, 0) is not None:
            pass  # the program has ended, and is not there to receive it
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _wait(process: subprocess.Popen[bytes], waits: frozenset[int], arrived: list[int]) -> None:
    """Wait for a signal or the end of the program, at most `_POLL_S`."""
    if not waits:
        try:
            process.wait(_POLL_S)
        except subprocess.TimeoutExpired:
            pass
        return
    found = signal.sigtimedwait(waits, _POLL_S)
    if found is None or found.si_signo not in _PASSED_ON:
        return
    if found.si_code > 0 and _same_group(process):
        return  # from the kernel, which sends signals of a terminal to the whole group
    _send(process, found.si_signo)


def _same_group(process: subprocess.Popen[bytes]) -> bool:
    try:
        return os.getpgid(process.pid) == os.getpgrp()
    except OSError:
        return True  # it has ended


def _from_terminal(process: subprocess.Popen[bytes], number: int) -> bool:
    """Return whether a signal probably came from a terminal, which sent it to the program too."""
    if number not in _OF_TERMINALS:
        return False
    if os.name != "posix":
        return True
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp() and _same_group(process)
    except OSError:
        return False
    finally:
        os.close(terminal)


def _send(process: subprocess.Popen[bytes], number: int) -> None:
    try:
        process.send_signal(number)
    except (OSError, ValueError):
        pass  # it has ended, or its id belongs to another user's process now
