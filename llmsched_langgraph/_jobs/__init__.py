"""One job: its stage runs, its calls, and its record after its end."""
