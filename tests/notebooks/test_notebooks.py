"""Every notebook runs from top to bottom on a machine without key and network, and is committed as it ran."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))

MACHINE = re.compile(r"(?<![\w.~])/(?:tmp|home|work|root|usr|opt|var|Users|private)/|[A-Z]:\\")
MOST_BYTES = 600_000

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def executed(path, folder, **environment):
    """What `notebooks/execute.py` makes of a notebook, and what it said on the standard error."""
    done = subprocess.run(
        [sys.executable, FOLDER / "execute.py", "--into", folder, path],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, **environment},
    )
    made = folder / path.name
    return nbformat.read(made, as_version=4) if done.returncode == 0 else None, done.stderr


def outputs(notebook):
    """Each output of each code cell, with the cell's number."""
    return [
        (number, output)
        for number, cell in enumerate(notebook.cells)
        if cell.cell_type == "code"
        for output in cell.outputs
    ]


def text_of(output):
    """All of an output that is text: printed, shown, or drawn as SVG."""
    data = output.get("data", {})
    shown = [value for kind, value in data.items() if kind.startswith("text/") or kind == "image/svg+xml"]
    return "\n".join([output.get("text", ""), *shown])


def check_clean(notebook):
    """No error, nothing on the standard error (so no warning), no path of the machine that it ran on."""
    for number, output in outputs(notebook):
        assert output.output_type != "error", (number, output)
        assert output.get("name") != "stderr", (number, output.text)
        assert not MACHINE.search(text_of(output)), (number, text_of(output))


def notebook_of(folder, *sources):
    """A notebook of these code cells, written into the folder."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    path = folder / "one.ipynb"
    nbformat.write(notebook, path)
    return path


def test_there_are_notebooks():
    assert len(NOTEBOOKS) >= 4


@pytest.mark.timeout(900)  # the paper's evaluation, on however slow a machine
@each
def test_it_runs_from_top_to_bottom(path, tmp_path):
    """Its own assertions hold, and it shows as many tables and pictures as the committed one."""
    notebook, said = executed(path, tmp_path)
    assert notebook is not None, said
    check_clean(notebook)
    committed = nbformat.read(path, as_version=4)
    kinds = [[output.output_type for _, output in outputs(own)] for own in (notebook, committed)]
    assert kinds[0] == kinds[1]
    pictures = [
        output
        for _, output in outputs(notebook)
        if {"image/png", "image/svg+xml"} & {*output.get("data", ())}
    ]
    assert len(pictures) >= 2


@each
def test_it_is_committed_as_it_ran(path):
    """In one go, from a fresh kernel, without what differs from machine to machine."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    check_clean(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert any(cell.outputs for cell in code)
    assert {*notebook.metadata} == {"kernelspec", "language_info"}
    assert notebook.metadata.language_info == {"name": "python"}
    assert all(not cell.metadata for cell in notebook.cells)
    assert path.stat().st_size < MOST_BYTES


@each
def test_it_begins_with_what_it_shows_and_how_to_install_it(path):
    first = nbformat.read(path, as_version=4).cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")
    assert "pip install '.[notebooks]'" in first.source


@each
def test_its_code_has_no_sleep_and_no_path_of_a_machine(path):
    code = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert not [source for source in code if "sleep(" in source or MACHINE.search(source)]


ATTEMPTS = {
    "an address": "socket.create_connection(('192.0.2.1', 80), timeout=5)",
    "a name": "socket.getaddrinfo('example.com', 443)",
    "a datagram": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))",
    "an event loop": "await asyncio.open_connection('192.0.2.1', 80)",
    "a process": "raise OSError(subprocess.run([sys.executable, '-c', NAME], stderr=subprocess.PIPE).stderr)",
}


@pytest.mark.timeout(180)
@pytest.mark.parametrize("attempt", ATTEMPTS.values(), ids=ATTEMPTS.keys())
def test_a_notebook_gets_no_network(attempt, tmp_path):
    """Whatever tries to reach anything but loopback is refused: at once, and by name."""
    before = f'import asyncio, socket, subprocess, sys\nNAME = "import socket; {ATTEMPTS["a name"]}"'
    notebook, said = executed(notebook_of(tmp_path, before, attempt), tmp_path)
    assert notebook is None
    assert "there is no network but loopback here" in said


@pytest.mark.timeout(180)
def test_a_notebook_gets_loopback_and_no_key(tmp_path):
    source = """
import os, socket
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(("localhost", server.getsockname()[1]), timeout=5)
client.close(), server.close()
print([name for name in os.environ if name.endswith("_API_KEY")])
"""
    notebook, said = executed(notebook_of(tmp_path, source), tmp_path, OPENAI_API_KEY="secret")
    assert notebook is not None, said
    assert [output.text for _, output in outputs(notebook)] == ["[]\n"]


@pytest.mark.timeout(180)
def test_a_cell_that_raises_fails_the_notebook(tmp_path):
    notebook, said = executed(notebook_of(tmp_path, "1 / 0"), tmp_path)
    assert notebook is None
    assert "one.ipynb" in said
    assert "ZeroDivisionError" in said
