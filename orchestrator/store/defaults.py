"""The tenant and the project that every installation has from its first migration on."""

from __future__ import annotations

DEFAULT_TENANT_ID = "00000000-0000-7000-8000-000000000001"
DEFAULT_PROJECT_ID = "00000000-0000-7000-8000-000000000002"
DEFAULT_NAME = "default"
