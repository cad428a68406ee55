"""How pixels get in."""
