"""Evaluation tools that agents do not need: simulator, workloads, testbed, demo and benchmark."""
