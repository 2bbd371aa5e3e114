"""The runs of `llmsched demo`: three LangGraph graphs on the embedded backend, stock and scheduled."""
