"""What `orchestrator.cli` puts together: the commands, and what they show."""
