"""Tasks that name no agent: a Python function, a tool, or a task of the user's own Celery app."""
