"""The background service that forms beliefs, learns, and saves profiles."""
