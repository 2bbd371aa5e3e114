"""The one place that knows LangGraph, langchain-core and openai."""
