"""The values that cross process borders: frozen pydantic models without I/O, each with a `schema_version` where stored."""
