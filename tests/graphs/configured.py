"""Scripted models that `init_chat_model` makes by their names, as it makes those of providers.

Does not answer: a model's name is that of its script.

Private name used: `_BUILTIN_PROVIDERS` of `langchain.chat_models.base`, the registry of providers.
"""

from __future__ import annotations

from typing import Any

from langchain.chat_models import base

from graphs.scripted import Script, ScriptedModel

PROVIDER = "scripted"
"""The provider's name: `init_chat_model("scripted:NAME")`."""

_scripts: dict[str, Script] = {}


class Named(ScriptedModel):
    """The model of a script; its other settings change nothing."""

    def __init__(self, *, model: str, **_: Any) -> None:
        super().__init__(model=model, script=_scripts[model])


def named(name: str, script: Script) -> str:
    """Register a script; what `init_chat_model` calls the model."""
    assert name not in _scripts, f"two models are called {name}"
    _scripts[name] = script
    return f"{PROVIDER}:{name}"


_providers = getattr(base, "_BUILTIN_PROVIDERS", None)
assert isinstance(_providers, dict), "langchain keeps its providers elsewhere: mend graphs/configured.py"
_providers[PROVIDER] = (__name__, Named.__name__, lambda cls, **settings: cls(**settings))
