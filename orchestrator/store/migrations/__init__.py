"""Alembic revisions; run through `orchestrator.store.schema`."""
