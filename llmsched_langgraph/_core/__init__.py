"""The scheduler itself, without IO: machine, ledger, policies. No clock, no lock, no thread."""
