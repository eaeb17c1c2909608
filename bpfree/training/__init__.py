"""How it is trained: stages, and the one loop that all algorithms share."""
