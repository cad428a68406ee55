"""How weights are used."""
