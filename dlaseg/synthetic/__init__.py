"""Street scenes drawn by code, in the Cityscapes layout."""
