"""Backends: what computes the coarse logits."""
