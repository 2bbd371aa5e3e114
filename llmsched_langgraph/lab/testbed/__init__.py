"""The runs of `llmsched testbed`: jobs as real LangGraph graphs on any OpenAI-compatible endpoint."""
