"""Tools: what a model may ask to be called."""
