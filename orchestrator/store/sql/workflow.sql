-- workflow_versions: every stored definition
SELECT id, name, digest, created_at FROM @workflow WHERE tenant_id = :tenant_id

-- workflow_versions_of: those of one name
SELECT id, name, digest, created_at FROM @workflow WHERE tenant_id = :tenant_id AND name = :name

-- workflow_uses: how many runs some definitions have, and when the last of them was made: by the index alone, where they are few
SELECT workflow_id, count(*), max(created_at) FROM @run WHERE workflow_id = ANY(:ids::uuid[]) GROUP BY workflow_id

-- workflow_names: what definitions are called whose digest begins so
SELECT DISTINCT name FROM @workflow WHERE tenant_id = :tenant_id AND digest >= :first AND digest <= :last

-- workflow_named: whether there is a definition of this name
SELECT 1 FROM @workflow WHERE tenant_id = :tenant_id AND name = :name LIMIT 1
