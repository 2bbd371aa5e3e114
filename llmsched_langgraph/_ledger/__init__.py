"""The ledger of tickets and grants: a protocol, and its implementation in process memory."""
