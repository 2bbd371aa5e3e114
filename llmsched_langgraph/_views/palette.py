"""Knows the colours, the same in every picture: of the three kinds of stages, and of compared policies.

Does not know what is drawn with them.
"""

from __future__ import annotations

from llmsched_langgraph._application.application import Kind

FILL = {Kind.REGULAR: "#eceff1", Kind.LLM: "#bbdefb", Kind.DYNAMIC: "#ffe0b2"}
STROKE = {Kind.REGULAR: "#78909c", Kind.LLM: "#1565c0", Kind.DYNAMIC: "#e65100"}

FOCUS = STROKE[Kind.LLM]
"""The policy that a comparison is about."""
REFERENCE = "#424242"
"""What no policy can be: clairvoyant."""
QUIET = "#b0bec5"
"""The other policies, where their names stand beside them."""
TOLD_APART = ("#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#882255", "#999933")
"""The other policies, where only their looks tell them apart; also for eyes that see fewer colours."""
