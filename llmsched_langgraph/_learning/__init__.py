"""The background service that forms beliefs, learns, and keeps profiles."""
