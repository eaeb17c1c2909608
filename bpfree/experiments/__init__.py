"""How a run is kept, and which runs the study has."""
