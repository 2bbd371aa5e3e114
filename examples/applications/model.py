"""Knows the model that all applications here talk to, how to ask it for data, and where inputs are.

Does not know any application.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.runnables import Runnable
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

HERE = Path(__file__).resolve().parent
SERVE_SIM = "http://127.0.0.1:8000/v1"

Data = TypeVar("Data", bound=BaseModel)


def base_url(asked: str | None = None) -> str:
    """Where the model is: as asked, as the environment says, or `llmsched serve-sim` on its usual port."""
    return asked or os.environ.get("OPENAI_BASE_URL") or SERVE_SIM


def is_url(text: str) -> bool:
    """Whether a server can be there: a scheme, a host, and a number if there is a port."""
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def default_model(at: str | None = None) -> ChatOpenAI:
    """The model that the environment names, at this base URL or that of the environment."""
    return ChatOpenAI(
        model=os.environ.get("OPENAI_MODEL") or "sim-model",
        base_url=base_url(at),
        api_key=os.environ.get("OPENAI_API_KEY") or "none",
    )


def asks_for(model: BaseChatModel, schema: type[BaseModel]) -> Runnable[Any, dict[str, Any]]:
    """The model, made to answer with this data, as a tool call. `data_in` reads the answer."""
    return model.with_structured_output(schema, method="function_calling", include_raw=True)


def data_in(answer: dict[str, Any], schema: type[Data]) -> tuple[Data | None, str]:
    """The data of such an answer, or None and what is wrong with it, in words that the model can use."""
    if isinstance(answer["parsed"], schema):
        return answer["parsed"], ""
    fault = answer.get("parsing_error")
    if fault is None:
        bad = getattr(answer["raw"], "invalid_tool_calls", None)
        fault = f"not JSON: {bad[0]['args']}" if bad else f"{schema.__name__} was not called"
    return None, " ".join(str(fault).split())[:600]


def read_inputs(name: str) -> list[dict[str, Any]]:
    """The inputs of the application of this name, one JSON object a line."""
    lines = (HERE / "inputs" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.strip()]
