"""Tasks that name no agent: a Python function, or a task of the user's own Celery app."""
