"""Replies in the words of each API, whole and as the events of a stream: pure functions."""
