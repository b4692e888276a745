"""Webhooks: events out to endpoints, and messages, answers and work in from sources."""
