-- schema_version: the revision that the last migration left
SELECT version_num FROM @alembic_version
