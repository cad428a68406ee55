"""What a synthetic street is made of, and how each part of it is painted."""
