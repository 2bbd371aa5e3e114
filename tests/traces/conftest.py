"""What the tests of traces share: files written where the test wants them."""

from __future__ import annotations

import gzip
import json

import pytest


@pytest.fixture
def write(tmp_path):
    """Write a file of JSON lines (objects, or text as it is), gzipped if its name says so."""

    def write(name, *lines):
        text = "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines)
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return path

    return write
