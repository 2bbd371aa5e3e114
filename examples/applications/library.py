"""Knows the small library that the tools look things up in: pages of text and a table of numbers.

The islands it tells of do not exist, so that no model knows the answers without looking.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import cache
from math import log

from model import HERE

CORPUS = HERE / "corpus"


@cache
def pages() -> dict[str, str]:
    """The text of each page by its title."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(CORPUS.glob("*.md"))]
    parts = [text.removeprefix("# ").split("\n", 1) for text in texts]
    return {title: " ".join(text.split()) for title, text in parts}


@cache
def facts() -> dict[str, float]:
    """Numbers by what they tell."""
    return json.loads((CORPUS / "facts.json").read_text(encoding="utf-8"))


def words(text: str) -> list[str]:
    """Words of a text, to be compared."""
    return re.findall(r"[a-z0-9]+", text.lower())


def best(query: str, texts: dict[str, str], count: int) -> list[str]:
    """Keys of the texts that have most of the query's words, rare words counting more (BM25's weights)."""
    bags = {key: Counter(words(f"{key} {text}")) for key, text in texts.items()}
    wanted, found = set(words(query)), {}
    for key, bag in bags.items():
        score = 0.0
        for word in wanted & bag.keys():
            having = sum(word in other for other in bags.values())
            score += (
                log(1 + (len(bags) - having + 0.5) / (having + 0.5)) * 2.2 * bag[word] / (bag[word] + 1.2)
            )
        if score:
            found[key] = score
    return sorted(found, key=lambda key: (-found[key], key))[:count]
