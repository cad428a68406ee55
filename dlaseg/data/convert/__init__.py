"""Annotations of other tools as a data set `folder`: a reader for each format, one writer."""
