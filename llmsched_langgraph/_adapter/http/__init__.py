"""Sees the HTTP requests of model calls, each of which holds a slot while it is in flight."""
