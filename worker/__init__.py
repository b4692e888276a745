"""The data plane: what runs agents. Plugin authors import `worker.agent`, and `worker.testing` in tests."""
