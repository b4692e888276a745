"""Model calls of a worker: fallbacks, limits, budgets, retries and what they cost, in an order that is written once."""
