"""The report page and the score tables."""
