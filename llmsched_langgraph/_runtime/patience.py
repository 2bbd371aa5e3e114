"""Defines the driver's limits: deferred events, batch sizes, waits and retries.

Does not handle events: the driver applies these limits.
"""

from __future__ import annotations

PUT_BY = 64
"""Maximum number of deferred events in the inbox."""

LOOK_S = 0.1
"""Maximum seconds that `Driver.look` waits for another thread to handle the inbox."""

AT_A_TIME = 256
"""Maximum number of events handled before waiters are woken and observers called."""

LAG = 64
"""Number of story entries that the package's own observer reads in one batch, unless one is urgent."""

TRIES = 3
"""Number of failed or interrupted tries after which an event is handled without the policy."""

GIVEN_UP = 6
"""Number of failed or interrupted tries after which an event is dropped, to unblock the inbox."""
