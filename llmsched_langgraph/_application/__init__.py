"""What an application is: stages, edges, unrolling."""
