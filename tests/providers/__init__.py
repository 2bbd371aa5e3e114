"""Provider packages of LangChain against a server on loopback: bare, and inside scheduled graphs."""
