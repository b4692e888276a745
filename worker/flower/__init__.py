"""Flower for a fleet: the process that serves it, and what its buttons and its API do here."""
