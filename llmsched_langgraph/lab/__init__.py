"""What is not needed to run agents: simulator, workloads, testbed, demo, benchmark."""
