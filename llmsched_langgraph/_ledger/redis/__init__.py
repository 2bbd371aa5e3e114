"""Stores the ledger in Redis or Valkey, for any number of processes. The rules are Lua files beside it."""
