"""Real time: clocks, locks, threads, event loops. Drives the core; knows nothing of LangGraph."""
