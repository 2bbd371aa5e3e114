"""What an application is, and how far one of its jobs has come. Standard library only."""
