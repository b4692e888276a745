"""Finds out how an installation is (`collect`, effects) and what that means (`judge`, pure)."""
