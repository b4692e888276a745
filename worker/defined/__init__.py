"""Agents without code: files of YAML that become classes derived from `BaseAgent`."""
