"""The protocol of the Cityscapes benchmark."""

BENCHMARK = "cityscapes"
"""Name of the benchmark in the table of data sets, and key of its scores in `scores.json`."""
