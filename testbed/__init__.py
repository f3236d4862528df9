"""What tests and benchmarks run on: servers of their own."""
