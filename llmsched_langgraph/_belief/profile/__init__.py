"""Application profiles and their file format."""
