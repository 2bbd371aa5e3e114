"""What a node finds by name alone while it runs."""

from __future__ import annotations

from graphs.scripted import ScriptedModel

_model = ScriptedModel(script={("red",): "rot", ("blue",): "blau", ("green",): "grün"})


def render(word: str) -> str:
    return _model.invoke(word).text
