"""Webhooks out: one request for each event and endpoint, again until it has arrived."""
