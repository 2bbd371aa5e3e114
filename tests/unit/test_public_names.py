"""`from llmsched_langgraph import *` works with and without the extras."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import sys
if {without}:
    sys.modules["langchain"] = None  # as if it were not installed
from llmsched_langgraph import *
print("SchedulerMiddleware" in globals(), schedule.__name__, Backend.__name__)
"""


@pytest.mark.parametrize("without", [False, True])
def test_all_names_can_be_imported(without):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(without=without)], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == (f"{not without} schedule Backend\n", "")
