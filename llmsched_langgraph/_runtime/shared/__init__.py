"""Connects a scheduler with the ledger that it shares with other processes."""
