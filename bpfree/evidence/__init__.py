"""How evidence is drawn."""
