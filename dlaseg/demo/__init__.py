"""`dlaseg demo`: a page on which people try weights."""
