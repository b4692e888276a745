"""Workflows that are submitted at their times."""
