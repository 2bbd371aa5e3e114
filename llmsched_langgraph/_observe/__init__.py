"""Observers of the story."""
