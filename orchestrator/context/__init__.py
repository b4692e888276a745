"""The shared context of runs: values by key that the agents of a run share. One port, its adapters, and its twin."""
