"""Pictures and text of values that other modules compute."""
