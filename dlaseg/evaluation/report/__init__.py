"""The report page and the tables."""
