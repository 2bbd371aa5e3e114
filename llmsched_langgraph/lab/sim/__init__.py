"""The simulator: workloads, latency models, servers and policies in virtual time.

Uses no wall clock, event loop or network; time is always an argument.
"""
