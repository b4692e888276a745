"""Messages between the agents of a run: rows first, then a hint to whoever waits for them in another process."""
