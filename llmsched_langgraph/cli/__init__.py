"""The command line `llmsched`."""
