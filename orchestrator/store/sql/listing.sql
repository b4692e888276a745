-- newest_of_workflow: for each definition, project and state that runs of a workflow's name are in, when the newest was made
-- The recursion jumps from project to project in the index instead of reading every run. `:states` is an object, whose keys
-- are read alike on both databases.
WITH RECURSIVE pair(workflow_id, project_id) AS (
    SELECT w.id, (
        SELECT r.project_id FROM @run r
        WHERE r.workflow_id = w.id AND r.project_id >= :first AND r.project_id <= :last ORDER BY r.project_id LIMIT 1
    ) FROM @workflow w WHERE w.name = :name
    UNION ALL
    SELECT p.workflow_id, (
        SELECT r.project_id FROM @run r
        WHERE r.workflow_id = p.workflow_id AND r.project_id > p.project_id AND r.project_id <= :last
        ORDER BY r.project_id LIMIT 1
    ) FROM pair p WHERE p.project_id IS NOT NULL
), known AS (
    SELECT workflow_id, project_id FROM pair WHERE project_id IS NOT NULL LIMIT :most
)
SELECT k.workflow_id, k.project_id, s.key, (
    SELECT r.created_at FROM @run r
    WHERE r.workflow_id = k.workflow_id AND r.project_id = k.project_id AND r.state = s.key AND r.created_at <= :until
    ORDER BY r.created_at DESC LIMIT 1
) AS newest
FROM known k CROSS JOIN json_each(:states/*pg ::json*/) s

-- newest_failure_of_workflow: the same for the runs that one error has failed, on Postgres
WITH RECURSIVE pair(workflow_id, project_id) AS (
    SELECT w.id, (
        SELECT r.project_id FROM @run r
        WHERE r.workflow_id = w.id AND r.project_id >= :first AND r.project_id <= :last ORDER BY r.project_id LIMIT 1
    ) FROM @workflow w WHERE w.name = :name
    UNION ALL
    SELECT p.workflow_id, (
        SELECT r.project_id FROM @run r
        WHERE r.workflow_id = p.workflow_id AND r.project_id > p.project_id AND r.project_id <= :last
        ORDER BY r.project_id LIMIT 1
    ) FROM pair p WHERE p.project_id IS NOT NULL
), known AS (
    SELECT workflow_id, project_id FROM pair WHERE project_id IS NOT NULL LIMIT :most
)
SELECT k.workflow_id, k.project_id, :code/*pg ::text*/, (
    SELECT r.created_at FROM @run r
    WHERE r.workflow_id = k.workflow_id AND r.project_id = k.project_id AND r.error IS NOT NULL
      /*pg AND (r.error ->> 'code') = :code */ AND r.created_at <= :until
    ORDER BY r.created_at DESC LIMIT 1
) AS newest
FROM known k
