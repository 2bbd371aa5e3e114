"""One job: its record when it has ended, and what it did. Standard library and `dag` only."""
