"""The page as text: whatever names a recording has, they are data, and nothing is loaded."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st
from support.recordings import NASTY, recording

from llmsched_langgraph.reports import Report

PIECES = st.sampled_from(
    ["<", ">", "&", '"', "'", "/", "script", "<!--", "-->", "]]>", "{{", "}}", "data", "\\", "\0"]
)
NAMES = st.sampled_from(NASTY) | st.lists(PIECES | st.text(max_size=3), min_size=1).map("".join).filter(bool)


class Page(HTMLParser):
    """The elements of a page, with the text in them."""

    def __init__(self, text):
        super().__init__()
        self.elements = []
        self.open = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append([tag, dict(attrs), ""])
        self.open = True

    def handle_endtag(self, tag):
        self.open = False

    def handle_data(self, data):
        if self.open:
            self.elements[-1][2] += data

    def all(self, tag):
        return [(attributes, text) for found, attributes, text in self.elements if found == tag]


def named(name):
    """A recording in which everything has this name."""
    one = recording(1)[0]
    stages = tuple(
        replace(
            stage,
            name=name,
            tool=name,
            calls=tuple(replace(call, backend=name, reason=name) for call in stage.calls),
        )
        for stage in one.stages
    )
    return Report([replace(one, id=name, app=name, tenant=name, stages=stages)], name)


PLAIN = [tag for tag, *_ in Page(named("x").html()).elements]


@given(NAMES)
def test_names_are_data(name):
    """The elements of the page are the same for all names; the data is read as it was."""
    made = named(name)
    text = made.html()
    assert text.isascii()
    page = Page(text)
    assert [tag for tag, *_ in page.elements] == PLAIN
    (about, data), (bare, script) = page.all("script")
    assert about == {"type": "application/json", "id": "data"}
    assert bare == {}
    assert "{{" not in script
    read = json.loads(data)
    assert read["jobs"][0]["id"] == name
    assert read["words"][read["jobs"][0]["app"]] == name
    assert read["figures"]["paid"]["tenant"][0]["name"] == name
    assert not re.search(r"[<>&]", data)
    ((frame, _),) = Page(made._repr_html_()).all("iframe")
    assert frame["srcdoc"] == text
    assert frame["sandbox"] == "allow-scripts"


def test_nothing_is_loaded():
    """No address stands in the page, and the policy allows its own style and script alone."""
    page = Page(named("x").html())
    ((_, style),) = page.all("style")
    script = page.all("script")[1][1]
    policy = next(about["content"] for about, _ in page.all("meta") if "http-equiv" in about)
    hashes = [
        "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for text in (style, script)
    ]
    allowed = f"style-src '{hashes[0]}'; script-src '{hashes[1]}'"
    assert policy == f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'"
    links = [
        value for _, about, _ in page.elements for name, value in about.items() if name in ("src", "href")
    ]
    assert links == ["#jobs"]
    for text in (style, script):
        assert not re.search(r"https?://|@import|url\(|\bfetch\b|XMLHttp|innerHTML|\beval\b", text)
        assert "</" not in text
