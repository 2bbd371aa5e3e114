"""Knows the colours of the three kinds of stages, the same in every picture."""

from __future__ import annotations

from llmsched_langgraph.dag.application import Kind

FILL = {Kind.REGULAR: "#eceff1", Kind.LLM: "#bbdefb", Kind.DYNAMIC: "#ffe0b2"}
STROKE = {Kind.REGULAR: "#78909c", Kind.LLM: "#1565c0", Kind.DYNAMIC: "#e65100"}
