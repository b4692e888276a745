-- take_turn: whose turn it is to sweep; a row means: yours, until then
UPDATE @sweep SET ran_at = now(), held_until = later(:lease)
WHERE id = 1 AND ran_at <= ago(:interval) AND (held_until IS NULL OR held_until <= now())
RETURNING held_until

-- end_turn: the next one may sweep; nothing once the turn has passed to another
UPDATE @sweep SET held_until = NULL WHERE id = 1 AND held_until = :held_until

-- release_held: hand back an agent run of a holder that is gone or knows nothing of it
/*pg WITH r AS MATERIALIZED (
    SELECT id FROM @run WHERE id = :run_id AND state IN ('pending', 'running') FOR SHARE
) */
UPDATE @agent_run
SET state = 'queued', worker_id = NULL, queued_at = now(), due_at = NULL, published_at = NULL, priority = 2, republished = 0,
    suspect = suspect OR :suspect, crashes = crashes + CASE WHEN suspect THEN :charge_suspect ELSE :charge END
WHERE id = :id AND epoch = :epoch AND state = 'running' AND worker_id = :worker_id AND EXISTS (SELECT 1 FROM @run WHERE id = :run_id AND state IN ('pending', 'running'))
  /*pg AND (SELECT count(*) FROM r) = 1 */

-- held_by_dead: what a dead worker held
SELECT id, run_id, epoch, crashes FROM @agent_run WHERE worker_id = :worker_id AND state = 'running' ORDER BY id LIMIT 500

-- held_by_nobody: running for a lease under a worker that is not even a row: one that has yet to join (again) is not meant
SELECT a.id, a.run_id, a.epoch, a.crashes, a.worker_id FROM @agent_run a
WHERE a.state = 'running' AND a.worker_id IS NOT NULL AND a.claimed_at < ago(:lease_ttl)
  AND NOT EXISTS (SELECT 1 FROM @worker w WHERE w.id = a.worker_id) ORDER BY a.id LIMIT 500

-- quarantine_row: end a suspect that was lost too often
UPDATE @agent_run SET state = 'failed', error = :error/*pg ::jsonb*/, finished_at = now(), worker_id = NULL, crashes = crashes + 1
WHERE id = :id AND epoch = :epoch AND state = 'running' AND suspect
RETURNING parent_id, subwork_id, has_subwork

-- take_due: queued rows that nobody has published and that are due, marked as published by the caller
UPDATE @agent_run SET published_at = now(), dispatch = dispatch + 1
WHERE id IN (
    SELECT id FROM @agent_run
    WHERE state = 'queued' AND published_at IS NULL AND (due_at IS NULL OR due_at <= now())
    ORDER BY due_at LIMIT 500 /*pg FOR UPDATE SKIP LOCKED */
)
RETURNING id, run_id, agent, queue, dispatch, priority

-- next_due: when the next unpublished row is due, or the next suspended one is woken, and the time
SELECT min(next.at), now() FROM (
    SELECT min(due_at) AS at FROM @agent_run WHERE state = 'queued' AND published_at IS NULL AND due_at > now()
    UNION ALL
    SELECT min(wake_at) FROM @agent_run WHERE state = 'suspended' AND wake_at > now()
) next

-- queued_lanes: queues and priorities that have anything queued and published; a step in the index for each, not for each row
WITH RECURSIVE waiting(queue) AS (
    SELECT min(queue) FROM @agent_run WHERE state = 'queued'
    UNION ALL
    SELECT (SELECT min(a.queue) FROM @agent_run a WHERE a.state = 'queued' AND a.queue > w.queue) FROM waiting w
    WHERE w.queue IS NOT NULL
), steps(priority) AS (SELECT 0 UNION ALL SELECT 1 UNION ALL SELECT 2)
SELECT w.queue, s.priority FROM waiting w CROSS JOIN steps s
WHERE w.queue IS NOT NULL AND (
    SELECT 1 FROM @agent_run a
    WHERE a.state = 'queued' AND a.queue = w.queue AND a.priority = s.priority AND a.published_at IS NOT NULL LIMIT 1
) = 1

-- lost_before_traffic: what was published well before something that has been claimed since
SELECT max(published_at) FROM (
    SELECT published_at FROM @agent_run
    WHERE queue = :queue AND priority = :priority AND state <> 'queued'
      AND claimed_at > ago(300) AND claimed_at < ago(:margin)
    ORDER BY claimed_at DESC LIMIT 200
) recent

-- idle_on_queue: before when what waits must have been published to be lost, a worker being idle on its queue for a while
-- A worker of short agents has a free slot at every look, and a long queue: what it has claimed of late shows where in the
-- queue it is, and claims of another priority that it has not come to this one. What was published again tells nothing: its
-- first message may be what was claimed, or all the others are lost as well.
SELECT CASE
    WHEN NOT EXISTS (
        SELECT 1 FROM @agent_run
        WHERE queue = :queue AND priority IN (0, 1, 2) AND state <> 'queued' AND claimed_at > ago(:grace)
          AND republished = 0
    ) THEN now()
    ELSE (
        SELECT max(published_at) FROM (
            SELECT published_at FROM @agent_run
            WHERE queue = :queue AND priority = :priority AND state <> 'queued' AND claimed_at > ago(:grace)
              AND republished = 0
            ORDER BY claimed_at DESC LIMIT 200
        ) recent
    ) END
FROM @worker_queue q JOIN @worker w ON w.id = q.worker_id
WHERE q.queue = :queue AND q.idle_from < ago(:grace) AND w.beat_at > ago(:lease_ttl) LIMIT 1

-- waiting_on_queue: how many published rows wait on a queue, counted up to a bound
SELECT count(*) FROM (
    SELECT 1 FROM @agent_run WHERE state = 'queued' AND queue = :queue AND published_at IS NOT NULL LIMIT :bound
) counted

-- any_older: whether any published row of a lane is of a certain age
SELECT 1 FROM @agent_run
WHERE state = 'queued' AND queue = :queue AND priority = :priority AND published_at < ago(:age) LIMIT 1

-- take_lost_before: queued rows published before a moment, marked as published again
UPDATE @agent_run SET published_at = now(), dispatch = dispatch + 1, republished = republished + 1
WHERE id IN (
    SELECT id FROM @agent_run
    WHERE state = 'queued' AND queue = :queue AND priority = :priority
      AND published_at < :before AND published_at < ago(:grace * (1 << republished))
    ORDER BY published_at LIMIT 50 /*pg FOR UPDATE SKIP LOCKED */
)
RETURNING id, run_id, agent, queue, dispatch, priority

-- take_lost_older: queued rows of a certain age, marked as published again; the age doubles with each time
UPDATE @agent_run SET published_at = now(), dispatch = dispatch + 1, republished = republished + 1
WHERE id IN (
    SELECT id FROM @agent_run
    WHERE state = 'queued' AND queue = :queue AND priority = :priority
      AND published_at < ago(:age) AND published_at < ago(:age * (1 << republished))
    ORDER BY published_at LIMIT :most /*pg FOR UPDATE SKIP LOCKED */
)
RETURNING id, run_id, agent, queue, dispatch, priority

-- stuck_runs: runs with a decision that nobody has taken, among the next rows with a condition; how many those are, and the last
WITH looked_at AS (
    SELECT id, run_id FROM @agent_run WHERE state = 'blocked' AND gated AND id > :after ORDER BY id LIMIT :bound
)
SELECT (SELECT count(*) FROM looked_at), last.id, stuck.run_id
FROM (SELECT id FROM looked_at ORDER BY id DESC LIMIT 1) last
LEFT JOIN (SELECT l.run_id FROM looked_at l JOIN @countdown c ON c.id = l.id WHERE c.remaining = 0) stuck ON 1 = 1

-- take_due_of: the same for some runs only: those of one embedded process, or of a producer's transaction
UPDATE @agent_run SET published_at = now(), dispatch = dispatch + 1
WHERE id IN (
    SELECT id FROM @agent_run
    WHERE state = 'queued' AND published_at IS NULL AND (due_at IS NULL OR due_at <= now())
      AND run_id = ANY(:runs::uuid[])
    ORDER BY due_at LIMIT 500 /*pg FOR UPDATE SKIP LOCKED */
)
RETURNING id, run_id, agent, queue, dispatch, priority

-- resume_rows: what a process that is gone left queued or running of a run, marked as published
UPDATE @agent_run
SET state = 'queued', worker_id = NULL, published_at = now(), dispatch = dispatch + 1, priority = 2, republished = 0,
    suspect = suspect OR state = 'running'
WHERE run_id = :run_id AND (due_at IS NULL OR due_at <= now()) AND (
    state = 'queued'
    OR (state = 'running' AND NOT EXISTS (SELECT 1 FROM @worker w WHERE w.id = worker_id AND w.beat_at > ago(:lease_ttl)))
)
RETURNING id, run_id, agent, queue, dispatch, priority
