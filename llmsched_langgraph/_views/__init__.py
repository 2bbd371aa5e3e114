"""What people look at: pictures and texts of values that other parts compute."""
