"""Limits that hold for the whole fleet: requests, tokens and calls at a time, booked before a model is called."""
