"""dlaseg."""
