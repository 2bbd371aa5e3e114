"""`llmsched record` ends as its program does, whatever happens to either of them."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import textwrap
import time
from types import SimpleNamespace

import pytest

from llmsched_langgraph.cli import program as programs
from llmsched_langgraph.cli.program import run_program

if os.name != "posix":
    pytest.skip("signals, terminals and descriptors are POSIX's", allow_module_level=True)

PATIENCE_S = 50
RECORD = [sys.executable, "-m", "llmsched_langgraph", "record"]
LINE = json.dumps({"app": "demo"})

TOLD = """
    import os, signal, sys, time
    told = []
    for name in sys.argv[1].split(","):
        signal.signal(getattr(signal, name), lambda number, frame: told.append(signal.Signals(number).name))
    print("ready", flush=True)
    until = time.monotonic() + 50
    while not told and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.5)  # what comes twice comes soon
    print(*told, flush=True)
    sys.exit(9)
"""


def python(code, *words):
    return [sys.executable, "-c", textwrap.dedent(code), *words]


def record(file, *command, **more):
    """Start the command; it is in a session of its own, without a terminal."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    return subprocess.Popen([*RECORD, str(file), "--", *command], **{**pipes, **more})


def ended(process):
    out, err = process.communicate(timeout=PATIENCE_S)
    return process.returncode, out, err


@pytest.fixture
def file(tmp_path):
    return tmp_path / "jobs.jsonl"


@pytest.mark.parametrize("status", [0, 1, 2, 42, 126, 127, 128, 130, 255])
def test_every_exit_code(file, status):
    code, out, err = ended(record(file, "sh", "-c", f"echo out; exit {status}"))
    assert (code, out) == (status, "out\n")
    assert err.startswith(f"llmsched: nothing was recorded in {file}")


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGINT", "SIGSEGV", "SIGABRT", "SIGPIPE", "SIGHUP"])
def test_every_death_by_a_signal(file, name):
    """As a shell has it."""
    number = getattr(signal, name)
    code = f"""
        import os, signal
        if {number} != signal.SIGKILL:
            signal.signal({number}, signal.SIG_DFL)
        os.kill(os.getpid(), {number})
    """
    assert ended(record(file, *python(code)))[0] == 128 + number


@pytest.mark.parametrize(
    ("make", "status"),
    [
        (lambda path: None, 127),
        (lambda path: path.symlink_to("nowhere"), 127),
        (lambda path: path.write_text("exit 3\n"), 126),
        (lambda path: path.mkdir(), 126),
        (lambda path: (path.write_bytes(b"\x7fELF nothing"), path.chmod(0o755)), 126),
        (lambda path: (path.write_text("#!/no/such/shell\n"), path.chmod(0o755)), 127),
    ],
    ids=["missing", "dangling", "not executable", "folder", "no format", "no interpreter"],
)
def test_a_program_that_cannot_be_started(file, tmp_path, make, status):
    """As a shell has it: 127 if it is not there, 126 if it cannot be executed; the reason is one line."""
    path = tmp_path / "program"
    make(path)
    code, out, err = ended(record(file, str(path)))
    assert (code, out) == (status, "")
    assert err.startswith(f"llmsched: record: '{path}' cannot be started: ")
    assert err.count("\n") == 1
    assert not file.exists()


def test_a_name_that_is_not_in_the_path(file):
    assert ended(record(file, "no-such-program"))[0] == 127


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2"])
def test_a_signal_is_passed_on_once(file, name):
    """The program decides what follows, and how it ends."""
    process = record(file, *python(TOLD, name))
    assert process.stdout.readline() == "ready\n"
    process.send_signal(getattr(signal, name))
    assert ended(process)[:2] == (9, f"{name}\n")


def test_a_program_that_python_interrupts(file):
    """KeyboardInterrupt where it is, not only the end."""
    code = """
        import time
        try:
            print("ready", flush=True)
            time.sleep(50)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
            raise SystemExit(77)
    """
    process = record(file, *python(code))
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert ended(process)[:2] == (77, "interrupted\n")


def test_signals_of_many_kinds_and_times(file):
    """None is lost, none ends the command before its program."""
    code = """
        import signal, sys
        counts = {}
        def count(number, frame):
            counts[number] = counts.get(number, 0) + 1
            print(number, flush=True)
        for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
            signal.signal(number, count)
        print("ready", flush=True)
        while sum(counts.values()) < 9:
            signal.pause()
        sys.exit(sum(counts.values()))
    """
    process = record(file, *python(code))
    assert process.stdout.readline() == "ready\n"
    for _ in range(3):
        for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
            process.send_signal(number)
            assert process.stdout.readline() == f"{int(number)}\n"
    assert ended(process)[0] == 9


@pytest.mark.parametrize(("key", "name"), [(b"\x03", "SIGINT"), (b"\x1c", "SIGQUIT")])
def test_keys_of_a_terminal_reach_the_program_once(file, key, name):
    """The terminal sends its signals to both; the command adds none."""
    child, terminal = pty.fork()
    if not child:
        os.execv(sys.executable, [*RECORD, str(file), "--", *python(TOLD, "SIGINT,SIGQUIT")])
    seen = b""
    try:
        while b"ready" not in seen:
            seen += os.read(terminal, 1000)
        os.write(terminal, key)
        while b"nothing was recorded" not in seen:
            seen += os.read(terminal, 1000)
    finally:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os.close(terminal)
    assert status == 9
    assert seen.decode().count(name) == 1, seen


def test_a_program_that_left_the_group_gets_the_keys_all_the_same(file):
    """A terminal does not know it any more."""
    code = "import os; os.setpgid(0, 0)" + textwrap.dedent(TOLD)
    child, terminal = pty.fork()
    if not child:
        os.execv(sys.executable, [*RECORD, str(file), "--", *python(code, "SIGINT")])
    seen = b""
    try:
        while b"ready" not in seen:
            seen += os.read(terminal, 1000)
        os.write(terminal, b"\x03")
        while b"nothing was recorded" not in seen:
            seen += os.read(terminal, 1000)
    finally:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os.close(terminal)
    assert (status, seen.decode().count("SIGINT")) == (9, 1)


def test_signals_that_are_ignored_stay_ignored(file):
    """As under nohup, for the program, too."""

    def ignore():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    code = """
        import signal, sys
        print(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN, flush=True)
        sys.stdin.read()
        sys.exit(4)
    """
    process = record(file, *python(code), preexec_fn=ignore, stdin=subprocess.PIPE)
    assert process.stdout.readline() == "True\n"
    process.send_signal(signal.SIGHUP)
    process.stdin.close()
    process.stdin = None
    assert ended(process)[0] == 4


def test_where_the_system_forgets_the_status_of_children(file):
    """A parent that ignores SIGCHLD hands that down."""

    def ignore():
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)

    for _ in range(3):
        assert ended(record(file, "sh", "-c", "exit 6", preexec_fn=ignore))[0] == 6


def test_the_program_has_the_mask_of_signals_that_the_command_had(file):
    code = "import signal; print(sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, []))))"
    assert ended(record(file, *python(code)))[:2] == (0, "[]\n")


def test_a_program_that_leaves_a_daemon_behind(file):
    """It ends when the program does, not when the daemon does; and the daemon's file is left alone."""
    code = f"""
        import os, sys, time
        if os.fork():
            os._exit(5)
        os.setsid()
        while os.getppid() == {{parent}}:
            time.sleep(0.01)
        fd = os.open({str(file)!r}, os.O_RDWR | os.O_APPEND | os.O_CREAT)
        print("open", flush=True)
        sys.stdin.readline()
        os.write(fd, b"{{line}}\\n")
        print("written", flush=True)
    """.replace("{parent}", "os.getpid()").replace("{line}", "one")
    process = record(file, *python(code), stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.wait(PATIENCE_S) == 5
    assert process.stdout.readline() == "open\n"
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "written\n"
    assert file.read_text() == "one\n"
    process.communicate()


@pytest.mark.parametrize(
    "end",
    [
        "rm -r FOLDER",
        "rm -f FILE; mkdir FILE",
        "rm -f FILE; ln -s FILE FILE",
        "rm -f FILE; mkfifo FILE; (sleep 1; echo > FILE) &",
        "head -c 3000 /dev/urandom > FILE",
        "head -c 200000 /dev/zero | tr '\\0' '[' > FILE",
        "echo '{\"app\": {}}' > FILE; echo '{\"app\": [1]}' >> FILE",
    ],
)
def test_whatever_becomes_of_the_file(tmp_path, end):
    """What was recorded cannot be read: that is said, and the status is the program's."""
    folder = tmp_path / "folder"
    file = folder / "jobs.jsonl"
    words = end.replace("FILE", str(file)).replace("FOLDER", str(folder))
    code, _, err = ended(record(file, "sh", "-c", f"{words}\nexit 3"))
    assert code == 3
    assert err.startswith("llmsched: ")
    assert "Traceback" not in err


def test_a_long_file_is_summed_up_though_signals_come(file):
    """The program has ended, and its status counts."""
    code = f"""
        import os, signal, sys
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        with open({str(file)!r}, "w") as lines:
            lines.write({LINE!r} + "\\n")
            for _ in range(40):
                lines.write(({LINE!r} + "\\n") * 10_000)
        print("written", flush=True)
        sys.exit(3)
    """
    process = record(file, *python(code))
    assert process.stdout.readline() == "written\n"
    for _ in range(10):
        for number in (signal.SIGINT, signal.SIGTERM):
            process.send_signal(number)
        time.sleep(0.005)
    code, _, err = ended(process)
    assert code == 3
    assert err == f"llmsched: 400001 jobs recorded in {file}: demo 400001\n"


@pytest.mark.parametrize(
    "redirection", [">&-", "2>&-", ">&- 2>&-", "<&-", ">/dev/full", "2>/dev/full", "<&- >&- 2>&-"]
)
def test_whatever_becomes_of_the_standard_streams(file, redirection):
    """Closed, or on a full disk: the line about the recording is lost, the status is not."""
    line = f"{' '.join(map(repr, RECORD))} {file} -- sh -c 'exit 11' {redirection}; echo $?"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.stdout == "11\n", done.stderr


def test_a_reader_that_leaves(file):
    """`llmsched record ... 2>&1 | true`"""
    line = f"({' '.join(map(repr, RECORD))} {file} -- sh -c 'sleep 1; exit 11'; echo $? >&3) 2>&1 | true"
    done = subprocess.run(
        ["sh", "-c", f"({line}) 3>&1"], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.stdout == "11\n", done.stderr


def test_what_cannot_be_recorded_to_is_refused_before_anything_runs(tmp_path):
    """With status 2: there is no program whose status it could be."""
    ran = tmp_path / "ran"
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "jobs.jsonl", tmp_path / ("long" * 100), "/proc/jobs.jsonl"):
        code, _, err = ended(record(path, "touch", str(ran)))
        assert (code, err.count("\n")) == (2, 1)
        assert err.startswith("llmsched: ")
    assert not ran.exists()


def test_a_new_file_is_not_made_before_there_is_something_to_write(file):
    """Nothing has to be taken away afterwards, under the hands of whoever writes."""
    code, out, _ = ended(record(file, "sh", "-c", f"ls -A {file.parent}"))
    assert (code, out) == (0, "")
    assert not file.exists()


def test_without_sigtimedwait(monkeypatch, file):
    """As on macOS: a signal is passed on by its handler, and the end is noticed all the same."""
    monkeypatch.delattr(signal, "sigtimedwait", raising=False)
    monkeypatch.setattr(programs, "_from_terminal", lambda process, number: False)
    then = []
    code = """
        import os, signal, sys
        signal.signal(signal.SIGUSR1, lambda *_: sys.exit(12))
        os.kill(os.getppid(), signal.SIGUSR1)
        signal.pause()
    """
    assert run_program(python(code), dict(os.environ), lambda: then.append(1)) == 12
    assert then == [1]
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


def test_where_a_signal_probably_comes_from(monkeypatch):
    """In the foreground of a terminal, keys are; elsewhere, and with other signals, somebody."""
    process = SimpleNamespace(pid=os.getpid())
    monkeypatch.setattr(os, "open", lambda *_: 99)
    monkeypatch.setattr(os, "close", lambda _: None)
    monkeypatch.setattr(os, "tcgetpgrp", lambda _: os.getpgrp())
    assert programs._from_terminal(process, signal.SIGINT)
    assert not programs._from_terminal(process, signal.SIGTERM)
    monkeypatch.setattr(os, "tcgetpgrp", lambda _: os.getpgrp() + 1)
    assert not programs._from_terminal(process, signal.SIGINT)


def test_handlers_and_mask_are_those_from_before():
    """Whoever calls the command as a function has them back."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)]
    assert run_program(["true"], dict(os.environ), lambda: None) == 0
    assert run_program(["sh", "-c", "kill -9 $$"], dict(os.environ), lambda: None) == 137
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)] == before
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()
