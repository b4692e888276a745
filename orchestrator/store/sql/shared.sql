-- shared_hold: hold what some runs share, until the transaction ends
-- Locks are taken in one order everywhere: run (for the foreign keys of what is written), what it shares, agent runs by id. Who
-- is about to wait for a change holds it too, so that the wait is seen by the next change, or sees this one.
/*pg WITH r AS MATERIALIZED (SELECT id FROM @run WHERE id = ANY(:run_ids::uuid[]) ORDER BY id FOR KEY SHARE)*/
SELECT run_id, changes, keys, bytes FROM @shared_context
WHERE run_id = ANY(:run_ids::uuid[]) /*pg AND (SELECT count(*) FROM r) >= 0*/ ORDER BY run_id /*pg FOR NO KEY UPDATE*/

-- shared_begin: make what is held, of runs that share nothing yet
INSERT INTO @shared_context (run_id, tenant_id, changes, keys, bytes)
SELECT id, tenant_id, 0, 0, 0 FROM @run WHERE id = ANY(:run_ids::uuid[]) ORDER BY id
ON CONFLICT DO NOTHING

-- shared_fence: hold the agent runs that change something, and those that wait for a change in their runs
-- Said as the index says it: a plan that is made once must not read the suspended rows of all runs.
SELECT id, run_id, epoch, state, listening FROM @agent_run WHERE id IN (
    SELECT id FROM @agent_run WHERE id = ANY(:ids::uuid[])
    UNION
    SELECT id FROM @agent_run WHERE run_id = ANY(:run_ids::uuid[]) AND CASE WHEN state = 'suspended' THEN listening END IS NOT NULL
)
ORDER BY id /*pg FOR NO KEY UPDATE*/

-- shared_head: where a key stands
SELECT version, present, number FROM @shared_key WHERE run_id = :run_id AND namespace = :namespace AND key = :key

-- shared_moved: whether any key with a prefix has changed behind a number
SELECT 1 FROM @shared_key
WHERE run_id = :run_id AND namespace = :namespace AND number > :since AND substr(key, 1, length(:prefix)) = :prefix LIMIT 1

-- shared_put: a version of a key
INSERT INTO @shared_version (run_id, namespace, key, version, tenant_id, number, body, size, task, created_at)
VALUES (:run_id, :namespace, :key, :version, :tenant_id, :number, :body, :size, :task, now())

-- shared_point: which version a key has
INSERT INTO @shared_key (run_id, namespace, key, tenant_id, version, number, present)
VALUES (:run_id, :namespace, :key, :tenant_id, :version, :number, :present)
ON CONFLICT (run_id, namespace, key) DO UPDATE
SET version = excluded.version, number = excluded.number, present = excluded.present

-- shared_count: what a run shares in all
UPDATE @shared_context SET changes = :changes, keys = :keys, bytes = :bytes WHERE run_id = :run_id

-- shared_value: what stands at a key
SELECT v.namespace, v.key, v.version, v.number, v.body, v.task, v.created_at
FROM @shared_key k
JOIN @shared_version v ON v.run_id = k.run_id AND v.namespace = k.namespace AND v.key = k.key AND v.version = k.version
WHERE k.run_id = :run_id AND k.namespace = :namespace AND k.key = :key

-- shared_history: versions of a key behind one of them, as many rows and bytes as are wanted
SELECT namespace, key, version, number, body, task, created_at FROM (
    SELECT p.*, coalesce(sum(size) OVER (ORDER BY version ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS earlier
    FROM (
        SELECT * FROM @shared_version
        WHERE run_id = :run_id AND namespace = :namespace AND key = :key AND version > :since ORDER BY version LIMIT :most
    ) p
) q WHERE earlier < :most_bytes ORDER BY version

-- shared_changes: what stands at the keys with a prefix that have changed behind a number, in the order of these changes
SELECT namespace, key, version, number, body, task, created_at FROM (
    SELECT p.*, coalesce(sum(size) OVER (ORDER BY number ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS earlier
    FROM (
        SELECT v.* FROM @shared_key k
        JOIN @shared_version v ON v.run_id = k.run_id AND v.namespace = k.namespace AND v.key = k.key AND v.version = k.version
        WHERE k.run_id = :run_id AND (:any_namespace = 1 OR k.namespace = :namespace) AND k.number > :since
          AND substr(k.key, 1, length(:prefix)) = :prefix AND (k.present OR :any_state = 1)
        ORDER BY k.number LIMIT :most
    ) p
) q WHERE earlier < :most_bytes ORDER BY number

-- shared_keys: the keys with a prefix that have a value
SELECT key FROM @shared_key
WHERE run_id = :run_id AND namespace = :namespace AND present AND substr(key, 1, length(:prefix)) = :prefix

-- shared_position: the number of the last change
SELECT changes FROM @shared_context WHERE run_id = :run_id

-- shared_tasks: the tasks that a run has
SELECT task FROM @agent_run WHERE run_id = :run_id ORDER BY position

-- shared_past: every version that some tasks of a run have made, in the order in which they did, as many as are wanted
SELECT namespace, key, number, tenant_id, body, size, task, created_at FROM (
    SELECT p.*, coalesce(sum(size) OVER (ORDER BY number ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS earlier
    FROM (
        SELECT * FROM @shared_version
        WHERE run_id = :run_id AND number > :since AND task = ANY(:tasks::text[]) ORDER BY number LIMIT :most
    ) p
) q WHERE earlier < :most_bytes ORDER BY number

-- delete_shared_versions: what some runs have shared, as steps of a transaction
DELETE FROM @shared_version WHERE run_id = ANY(:ids::uuid[])

-- delete_shared_keys: the keys of it
DELETE FROM @shared_key WHERE run_id = ANY(:ids::uuid[])

-- delete_shared: what it comes to
DELETE FROM @shared_context WHERE run_id = ANY(:ids::uuid[])

-- shared_copy_content: text that stands apart in a run, for another one
INSERT INTO @content (run_id, hash, tenant_id, parent, body)
SELECT :run_id/*pg ::uuid*/, hash, tenant_id, parent, body FROM @content
WHERE run_id = :source AND hash = ANY(:hashes::text[]) ORDER BY hash
ON CONFLICT DO NOTHING
