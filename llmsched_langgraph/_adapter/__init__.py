"""The adapter: with `_compiler`, the scheduler's only importer of LangGraph and its libraries."""
