"""The variables of an application, the evidence of a job, and the resulting belief."""
