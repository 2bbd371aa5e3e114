"""What `llmsched demo` runs: three real graphs on the embedded backend, stock against scheduled."""
