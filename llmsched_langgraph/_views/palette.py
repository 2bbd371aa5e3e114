"""Defines the colours of stage kinds and of compared policies, the same in every picture.

Does not draw anything.
"""

from __future__ import annotations

from llmsched_langgraph._application.application import Kind

FILL = {Kind.REGULAR: "#eceff1", Kind.LLM: "#bbdefb", Kind.DYNAMIC: "#ffe0b2"}
STROKE = {Kind.REGULAR: "#78909c", Kind.LLM: "#1565c0", Kind.DYNAMIC: "#e65100"}

FOCUS = STROKE[Kind.LLM]
"""Colour of the policy in focus, with which the others are compared."""
REFERENCE = "#424242"
"""Colour of the clairvoyant reference."""
QUIET = "#b0bec5"
"""Colour of the other policies in figures that print each policy's name beside it."""
SERIES_COLOURS = ("#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#882255", "#999933")
"""Colours of the other policies in line plots; safe for colour-blind readers."""
