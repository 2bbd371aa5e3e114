"""Detects waits for a slot that can never end, and has one waiting call go ahead for each."""
