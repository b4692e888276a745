"""The broker: the Celery app, the messages, the publisher, and the memory transport of embedded mode."""
