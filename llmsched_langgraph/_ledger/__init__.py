"""Who waits for a slot and who holds one: a protocol, and its home in the memory of one process."""
