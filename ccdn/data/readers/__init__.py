"""The benchmarks on disk: one module reads one of them."""
