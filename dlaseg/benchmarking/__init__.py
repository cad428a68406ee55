"""Measurements of training on this machine."""
