"""The loop of an agent that thinks: ask the model, call the tools that it asks for, until it has answered."""
