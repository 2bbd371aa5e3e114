"""Knows how much a driver puts by, takes at a time and bears with.

Does not know what is put by.
"""

from __future__ import annotations

PUT_BY = 64
"""Events that may lie in the inbox until one comes that has to be handled."""

LOOK_S = 0.1
"""Seconds for which a look waits, at most, for another thread that handles the inbox."""

AT_A_TIME = 256
"""Events that are handled before their outcome is delivered."""

LAG = 64
"""Entries of the story that the package itself looks at together, if none of them is urgent."""

TRIES = 3
"""Times that an event is broken off after which it is handled without asking the policy."""

GIVEN_UP = 6
"""Times that an event is broken off after which it is dropped, so that those behind it can be handled."""
