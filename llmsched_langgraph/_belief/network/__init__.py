"""Bayesian networks: tables and inference."""
