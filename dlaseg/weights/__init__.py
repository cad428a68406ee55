"""Weights files: reading, writing, downloading, publishing."""
