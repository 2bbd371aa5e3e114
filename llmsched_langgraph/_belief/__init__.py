"""Learns from ended jobs and predicts the remaining work of running ones."""
