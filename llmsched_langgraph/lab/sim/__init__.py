"""Virtual time: workloads, latency models and the servers that live by them.

Knows no wall clock, no event loop and no network; time always comes in as an argument.
"""
