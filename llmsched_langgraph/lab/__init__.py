"""Evaluation tools: simulator, workloads, testbed, demo and benchmark. Running agents needs none of them."""
