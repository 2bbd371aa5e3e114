from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "applications"


@pytest.fixture(autouse=True, scope="session")
def importable() -> Iterator[None]:
    """The applications import each other by plain names, as a program in their folder does."""
    sys.path.insert(0, str(FOLDER))
    yield
    sys.path.remove(str(FOLDER))
    for name in [path.stem for path in FOLDER.glob("*.py")]:
        sys.modules.pop(name, None)
