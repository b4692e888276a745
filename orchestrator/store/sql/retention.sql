-- retention_turn: whose turn it is to delete; one row changed means: yours
INSERT INTO @sweep (id, ran_at) VALUES (2, now())
ON CONFLICT (id) DO UPDATE SET ran_at = excluded.ran_at WHERE @sweep.ran_at <= ago(:interval)

-- retention_goes_on: keep the turn while there is something left to do
UPDATE @sweep SET ran_at = now() WHERE id = 2

-- projects: every project, and how long it keeps its runs where it says so
SELECT id, name, created_at, retention FROM @project WHERE tenant_id = :tenant_id ORDER BY name

-- keep_project: how long a project keeps its runs
UPDATE @project SET retention = :retention/*pg ::jsonb*/ WHERE tenant_id = :tenant_id AND name = :name

-- delete_expired: runs of a project that ended in one state some time ago, the oldest first, with all that is theirs
-- A run ends after it was created, so the index on creation leads to all of them; whoever opens one again holds it.
DELETE FROM @run WHERE id IN (
    SELECT id FROM @run
    WHERE project_id = :project_id AND state = :state AND created_at < ago(:age) AND finished_at < ago(:age)
    ORDER BY created_at LIMIT :most /*pg FOR UPDATE SKIP LOCKED */
)

-- oldest_kept: the last of so many ended runs of a project, the newest first
SELECT created_at, id FROM (
    SELECT * FROM (
        SELECT created_at, id FROM @run WHERE project_id = :project_id AND state = 'succeeded'
        ORDER BY created_at DESC, id DESC LIMIT :keep
    ) s
    UNION ALL
    SELECT * FROM (
        SELECT created_at, id FROM @run WHERE project_id = :project_id AND state = 'failed'
        ORDER BY created_at DESC, id DESC LIMIT :keep
    ) f
    UNION ALL
    SELECT * FROM (
        SELECT created_at, id FROM @run WHERE project_id = :project_id AND state = 'cancelled'
        ORDER BY created_at DESC, id DESC LIMIT :keep
    ) c
) ended ORDER BY created_at DESC, id DESC LIMIT 1 OFFSET :keep - 1

-- delete_behind: runs of a project that ended in one state and are older than the last one to keep, the oldest first
DELETE FROM @run WHERE id IN (
    SELECT id FROM @run
    WHERE project_id = :project_id AND state = :state AND created_at <= :at AND (created_at < :at OR id < :last/*pg ::uuid*/)
      AND finished_at IS NOT NULL
    ORDER BY created_at LIMIT :most /*pg FOR UPDATE SKIP LOCKED */
)

-- delete_ended: those of some runs that ended some time ago
DELETE FROM @run WHERE id IN (
    SELECT id FROM @run
    WHERE id = ANY(:ids::uuid[]) AND finished_at IS NOT NULL AND finished_at <= ago(:age) /*pg FOR UPDATE SKIP LOCKED */
)

-- recorded_after: agent runs with recorded effects, in the order of their ids, which is that of their runs' creation
-- It jumps from agent run to agent run in the index instead of reading every effect.
WITH RECURSIVE hop(id, number) AS (
    SELECT (SELECT j.agent_run_id FROM @journal j WHERE j.agent_run_id > :after/*pg ::uuid*/ ORDER BY j.agent_run_id LIMIT 1), 1
    UNION ALL
    SELECT (SELECT j.agent_run_id FROM @journal j WHERE j.agent_run_id > h.id ORDER BY j.agent_run_id LIMIT 1),
           h.number + 1
    FROM hop h WHERE h.id IS NOT NULL AND h.number < :most
)
SELECT h.id, r.id, r.project_id, r.finished_at, now() FROM hop h
JOIN @agent_run a ON a.id = h.id JOIN @run r ON r.id = a.run_id ORDER BY h.id

-- hold_ended: hold those of some runs that ended some time ago, against being opened again
SELECT id FROM @run
WHERE id = ANY(:ids::uuid[]) AND finished_at IS NOT NULL AND finished_at <= ago(:age) /*pg FOR UPDATE SKIP LOCKED */

-- delete_journals: what the agent runs of some runs have recorded
DELETE FROM @journal WHERE agent_run_id IN (SELECT id FROM @agent_run WHERE run_id = ANY(:ids::uuid[]))

-- delete_content: long text and conversations of some runs
DELETE FROM @content WHERE run_id = ANY(:ids::uuid[])

-- delete_pieces: what watchers of some runs were shown of answers
DELETE FROM @stream_piece WHERE run_id = ANY(:ids::uuid[])

-- definitions_after: definitions in the order of their ids, and whether they are wanted
SELECT w.id, w.created_at > ago(:age) OR EXISTS (SELECT 1 FROM @run r WHERE r.workflow_id = w.id)
FROM @workflow w WHERE w.id > :after/*pg ::uuid*/ ORDER BY w.id LIMIT :most

-- hold_definitions: hold definitions against new runs; one that a submit is using stays out
SELECT id FROM @workflow WHERE id = ANY(:ids::uuid[]) /*pg FOR UPDATE SKIP LOCKED */

-- delete_definitions: definitions of no run, after they are held: a run that came before that is seen here
DELETE FROM @workflow WHERE id = ANY(:ids::uuid[])
  AND NOT EXISTS (SELECT 1 FROM @run r WHERE r.workflow_id = @workflow.id)

-- delete_silent_workers: rows of worker processes that died long ago and hold nothing
DELETE FROM @worker WHERE beat_at < ago(:age)
  AND NOT EXISTS (SELECT 1 FROM @agent_run a WHERE a.worker_id = @worker.id AND a.state = 'running')

-- expired_count: how many runs of a project ended in one state some time ago, counted up to a bound
SELECT count(*) FROM (
    SELECT 1 FROM @run
    WHERE project_id = :project_id AND state = :state AND created_at < ago(:age) AND finished_at < ago(:age) LIMIT :bound
) counted
