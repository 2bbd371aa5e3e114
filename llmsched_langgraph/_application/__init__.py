"""The application of a graph: stages, edges and loop unrolling."""
