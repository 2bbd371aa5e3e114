"""Detects waits for a slot that can never end, and lets one of the waiting calls go ahead for each."""
