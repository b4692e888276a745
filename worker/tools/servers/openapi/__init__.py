"""OpenAPI documents, read as far as tools need it: versions 3.0 and 3.1, JSON or YAML."""
