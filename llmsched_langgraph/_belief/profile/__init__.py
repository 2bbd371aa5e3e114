"""What is known of each application, and its file format."""
