"""Guards: what looks at what goes into an agent's conversations, and at what comes out of them."""
