"""Knows how a notebook is executed, top to bottom, without key or network, and written with its outputs.

Does not know what a notebook shows. `python notebooks/execute.py` executes all of them where they are.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

HERE = Path(__file__).resolve().parent
CELL_S = 540
"""The longest that one cell may take, in seconds."""

SECRET = ("_API_KEY", "_TOKEN", "_SECRET")
"""Ends of names of environment variables that a notebook does not get to see."""

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
"""All that is kept of a notebook's metadata: the rest differs from machine to machine."""


def execute(path: Path) -> nbformat.NotebookNode:
    """The notebook with fresh outputs, executed in an empty folder by this Python.

    Its kernel, and whatever that starts, gets no API key and reaches nothing but loopback.

    Raises:
        CellExecutionError: a cell raised; the message shows it.
    """
    notebook: nbformat.NotebookNode = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    with tempfile.TemporaryDirectory() as kept, tempfile.TemporaryDirectory() as folder:
        environment = {name: value for name, value in os.environ.items() if not name.endswith(SECRET)}
        environment.pop("MPLBACKEND", None)  # Jupyter's own shows pictures
        package = [str(HERE / "offline"), str(HERE.parent), environment.get("PYTHONPATH", "")]
        environment |= {
            "PYTHONPATH": os.pathsep.join(part for part in package if part),
            "IPYTHONDIR": kept,  # the history of the user's own sessions is no business of ours
        }
        kernel = AsyncKernelManager(kernel_name="python3", connection_file=str(Path(kept) / "kernel.json"))
        client = NotebookClient(
            notebook,
            km=kernel,
            timeout=CELL_S,
            extra_arguments=["--log-level=ERROR"],
            resources={"metadata": {"path": folder}},
        )
        client.execute(env=environment, cleanup_kc=True)
    notebook.metadata = nbformat.from_dict(METADATA)  # type: ignore[no-untyped-call]
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    return notebook


def main() -> int:
    """Execute notebooks and write them; 1 if a cell of one raised."""
    parser = argparse.ArgumentParser(description="Executes notebooks and writes them with their outputs.")
    parser.add_argument("notebooks", nargs="*", type=Path, metavar="FILE", help="default: all beside this")
    parser.add_argument("--into", type=Path, metavar="DIR", help="write them there, not where they are")
    options = parser.parse_args()
    for path in options.notebooks or sorted(HERE.glob("*.ipynb")):
        began_s = time.monotonic()
        try:
            notebook = execute(path)
        except CellExecutionError as error:
            print(f"{path.name}: {error}", file=sys.stderr)
            return 1
        nbformat.write(notebook, (options.into or path.parent) / path.name)  # type: ignore[no-untyped-call]
        print(f"{path.name}: {time.monotonic() - began_s:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
