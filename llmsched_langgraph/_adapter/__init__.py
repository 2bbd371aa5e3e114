"""The adapter: the only package, beside `_compiler`, that imports LangGraph, langchain-core and openai."""
