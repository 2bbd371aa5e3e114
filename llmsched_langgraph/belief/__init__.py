"""What has been learned of applications, and what it says about a job's future. Pure values."""
