"""The embedded OpenAI-compatible backend: HTTP on loopback, with the latency of a real model server.

Does not schedule: it counts the requests in flight independently of the scheduler.
"""
