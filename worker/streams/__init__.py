"""Answers of models on their way to watchers: masked, told once whatever is repeated, stored a few times a second."""
