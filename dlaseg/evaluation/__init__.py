"""Scores of weights and of label maps."""
