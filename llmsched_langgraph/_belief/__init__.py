"""What earlier jobs teach of the next one."""
