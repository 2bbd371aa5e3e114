"""The embedded OpenAI-compatible backend: HTTP on loopback, answers after the time a real one takes.

Knows nothing of scheduling: it is what the scheduler's slots stand for, and counts what it sees for itself.
"""
