"""The compiler: converts a LangGraph graph to an application, without running it."""
