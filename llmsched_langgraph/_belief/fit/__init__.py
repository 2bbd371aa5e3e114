"""Models fitted to ended jobs, and how good they are."""
