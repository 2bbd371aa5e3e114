"""Reports made by a process beside the Agent Server, whose model calls share the server's slots.

python batch.py 12
"""

from __future__ import annotations

import asyncio
import sys
import time

from agent import report

from llmsched_langgraph import default_scheduler


async def main(reports: int) -> None:
    """Make `reports` reports at once; print how long they took, and what became of their calls."""
    begun_s = time.monotonic()
    topics = ["rivers", "lakes", "seas"]
    found = await asyncio.gather(*(report.ainvoke({"topics": topics}) for _ in range(reports)))
    made = sum(bool(state["summary"]) for state in found)
    calls = default_scheduler().statistics()
    print(
        f"{made} reports in {time.monotonic() - begun_s:.1f} s: {calls.released} calls on "
        f"{calls.backends[0].slots} slots"
    )


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 12))
