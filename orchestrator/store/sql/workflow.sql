-- workflow_versions: every stored definition, how many runs have it, and when the last of them was made
SELECT w.id, w.name, w.digest, w.created_at, coalesce(u.runs, 0), u.last_run_at
FROM @workflow w
LEFT JOIN (
    SELECT workflow_id, count(*) AS runs, max(created_at) AS last_run_at FROM @run GROUP BY workflow_id
) u ON u.workflow_id = w.id
WHERE w.tenant_id = :tenant_id

-- workflow_versions_of: the same of one name
SELECT w.id, w.name, w.digest, w.created_at,
       (SELECT count(*) FROM @run r WHERE r.workflow_id = w.id),
       (SELECT max(r.created_at) FROM @run r WHERE r.workflow_id = w.id)
FROM @workflow w
WHERE w.tenant_id = :tenant_id AND w.name = :name

-- workflow_names: what definitions are called whose digest begins so
SELECT DISTINCT name FROM @workflow WHERE tenant_id = :tenant_id AND digest >= :first AND digest <= :last

-- workflow_named: whether there is a definition of this name
SELECT 1 FROM @workflow WHERE tenant_id = :tenant_id AND name = :name LIMIT 1
