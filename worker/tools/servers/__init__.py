"""Tools of servers: those that speak MCP, and those that an OpenAPI document describes."""
