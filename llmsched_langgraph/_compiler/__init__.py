"""From a LangGraph graph to an application, without running any of it."""
