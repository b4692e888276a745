"""Steps of our own in Celery's consumer: when events leave, and how many messages are held."""
