"""An author's workflow in processes that die, with messages that come twice: what `orchestrator.testing` offers."""
