"""Knows how a table is written into the README between its marks.

Does not know what is in it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown: the first column on the left, figures on the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def write(name: str, text: str) -> None:
    """Put the text in place of what stands between `<!-- name: ... -->` and `<!-- /name -->`."""
    before = README.read_text()
    marked = re.compile(rf"(<!-- {name}: .*? -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not marked.search(before):
        sys.exit(f"{README} has no marks for {name!r}")
    README.write_text(marked.sub(lambda found: found[1] + text + found[2], before))
