"""What `llmsched testbed` runs: recorded or generated jobs, as real LangGraph graphs, on any endpoint."""
