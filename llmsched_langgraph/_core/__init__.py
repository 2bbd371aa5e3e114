"""The scheduler core, without IO: machine, story, policies. It has no clock, lock or thread."""
