"""One job: its stage runs, its calls, and the record of it once it has ended."""
