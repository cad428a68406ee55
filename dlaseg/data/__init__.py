"""Data sets, their files, loading and augmentation."""
