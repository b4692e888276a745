-- shared_hold: hold what some runs share, until the transaction ends
-- Locks are taken in one order everywhere: run (for the foreign keys of what is written), what it shares, agent runs by id. Who
-- is about to wait for a change holds it too, so that the wait is seen by the next change, or sees this one.
/*pg WITH r AS MATERIALIZED (SELECT id FROM @run WHERE id = ANY(:run_ids::uuid[]) ORDER BY id FOR KEY SHARE)*/
SELECT run_id, changes, keys, bytes, watched_until > now() FROM @shared_context
WHERE run_id = ANY(:run_ids::uuid[]) /*pg AND (SELECT count(*) FROM r) >= 0*/ ORDER BY run_id /*pg FOR NO KEY UPDATE*/

-- shared_begin: make what is held, of runs that share nothing yet
INSERT INTO @shared_context (run_id, tenant_id, changes, keys, bytes)
SELECT id, tenant_id, 0, 0, 0 FROM @run WHERE id = ANY(:run_ids::uuid[]) ORDER BY id
ON CONFLICT DO NOTHING

-- shared_watch: note that somebody waits in a process for a change of what a run shares, who is to be told by others
/*pg INSERT INTO @shared_context AS c (run_id, tenant_id, changes, keys, bytes, watched_until)
SELECT id, tenant_id, 0, 0, 0, later(:seconds::float8) FROM @run WHERE id = :run_id
ON CONFLICT (run_id) DO UPDATE SET watched_until = excluded.watched_until
WHERE c.watched_until IS NULL OR c.watched_until < later(:seconds::float8 / 2) */

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

-- shared_patience: how long to stand in a line of processes at most
SET LOCAL lock_timeout = '20s'

-- shared_line: stand in the line of those who want to change a key, until the transaction ends; behind it nothing is held
SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))

-- shared_stand: where keys stand on Postgres, and what stands in places of the journal, of a group of changes
SELECT 'key', w.run_id, w.namespace, w.key, k.version, k.present, NULL::text
FROM jsonb_to_recordset(:keys::jsonb) AS w(run_id uuid, namespace text, key text)
JOIN @shared_key k ON k.run_id = w.run_id AND k.namespace = w.namespace AND k.key = w.key
UNION ALL
SELECT 'slot', j.agent_run_id, j.scope, NULL, j.number, NULL, j.state
FROM jsonb_to_recordset(:slots::jsonb) AS w(agent_run_id uuid, scope text, number int)
JOIN @journal j ON j.agent_run_id = w.agent_run_id AND j.scope = w.scope AND j.number = w.number

-- shared_store: all that a group of changes stores, on Postgres, where everything is held that it touches
WITH stored AS (
    INSERT INTO @content (run_id, hash, tenant_id, parent, body)
    SELECT c.run_id, c.hash, c.tenant_id, c.parent, substring(:bodies::bytea FROM c.start FOR c.length)
    FROM jsonb_to_recordset(:contents::jsonb) AS c(
        run_id uuid, hash text, tenant_id uuid, parent text, start int, length int
    )
    ORDER BY c.run_id, c.hash ON CONFLICT DO NOTHING
), versions AS (
    INSERT INTO @shared_version (run_id, namespace, key, version, tenant_id, number, body, size, task, created_at)
    SELECT v.run_id, v.namespace, v.key, v.version, v.tenant_id, v.number,
           substring(:bodies::bytea FROM v.start FOR v.length), v.size, v.task, now()
    FROM jsonb_to_recordset(:versions::jsonb) AS v(
        run_id uuid, namespace text, key text, version int, tenant_id uuid, number bigint, size int, task text, start int,
        length int
    )
), pointed AS (
    INSERT INTO @shared_key (run_id, namespace, key, tenant_id, version, number, present)
    SELECT k.run_id, k.namespace, k.key, k.tenant_id, k.version, k.number, k.present
    FROM jsonb_to_recordset(:keys::jsonb) AS k(
        run_id uuid, namespace text, key text, tenant_id uuid, version int, number bigint, present boolean
    )
    ON CONFLICT (run_id, namespace, key) DO UPDATE
    SET version = excluded.version, number = excluded.number, present = excluded.present
), counted AS (
    UPDATE @shared_context SET changes = t.changes, keys = t.keys, bytes = t.bytes
    FROM jsonb_to_recordset(:totals::jsonb) AS t(run_id uuid, changes bigint, keys int, bytes bigint)
    WHERE @shared_context.run_id = t.run_id
), written AS (
    INSERT INTO @journal AS j (
        agent_run_id, scope, number, tenant_id, kind, fingerprint, state, request, outcome, digest, epoch, milliseconds,
        recorded_at
    )
    SELECT e.agent_run_id, e.scope, e.number, e.tenant_id, e.kind, e.fingerprint, e.state, e.request,
           substring(:bodies::bytea FROM e.start FOR e.length), e.digest, e.epoch, e.milliseconds, now()
    FROM jsonb_to_recordset(:entries::jsonb) AS e(
        agent_run_id uuid, scope text, number int, tenant_id uuid, kind text, fingerprint text, state text, request text,
        digest text, epoch int, milliseconds int, start int, length int
    )
    ON CONFLICT (agent_run_id, scope, number) DO UPDATE
    SET kind = excluded.kind, fingerprint = excluded.fingerprint, state = excluded.state, request = excluded.request,
        outcome = excluded.outcome, error = NULL, usage = NULL, model = NULL, digest = excluded.digest, conversation = NULL,
        epoch = excluded.epoch, milliseconds = excluded.milliseconds, recorded_at = excluded.recorded_at
    WHERE j.state IN ('begun', 'void')
), woken AS (
    UPDATE @agent_run
    SET state = 'queued', queued_at = now(), due_at = NULL, published_at = NULL, priority = 1, republished = 0, wake_at = NULL,
        waiting_for = NULL
    WHERE id = ANY(:woken::uuid[]) AND state || '' = 'suspended'
)
SELECT 1

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

-- shared_tasks: the tasks that a run has; and those that have a part, which in a fork may be sub-work of its source
SELECT task FROM (
    SELECT task, position FROM @agent_run WHERE run_id = :run_id
    UNION
    SELECT namespace, 2147483647 FROM @shared_key k WHERE run_id = :run_id AND namespace <> ''
      AND NOT EXISTS (SELECT 1 FROM @agent_run a WHERE a.run_id = :run_id AND a.task = k.namespace)
) t ORDER BY position

-- shared_writers: the tasks that have written something, of sub-work too
SELECT DISTINCT task FROM @shared_version WHERE run_id = :run_id

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
