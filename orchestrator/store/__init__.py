"""State: tables, one repository per aggregate, and Celery's result backend as a view of it."""
