"""The journal: the recorded effects of agent runs, behind one port. `base.py` is the port, `memory.py` its twin for tests."""
