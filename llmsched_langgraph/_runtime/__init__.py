"""Real time: clocks, locks, threads and event loops. Drives the core; does not know LangGraph."""
