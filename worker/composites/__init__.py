"""Tasks that are made of others: what executes each kind of them."""
