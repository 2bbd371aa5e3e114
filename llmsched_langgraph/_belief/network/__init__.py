"""Discrete Bayesian networks: tables and exact inference."""
