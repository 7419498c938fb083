"""The benchmarks, one file a data set."""
