-- take_turn: whose turn it is to sweep; one row changed means: yours
UPDATE @sweep SET ran_at = now() WHERE id = 1 AND ran_at <= ago(:interval)

-- release_held: hand back an agent run of a holder that is gone or knows nothing of it
/*pg WITH r AS MATERIALIZED (
    SELECT id FROM @run WHERE id = :run_id AND state IN ('pending', 'running') FOR SHARE
) */
UPDATE @agent_run
SET state = 'queued', worker_id = NULL, queued_at = now(), due_at = NULL, published_at = NULL, priority = 2, republished = 0,
    crashes = crashes + :crashed
WHERE id = :id AND epoch = :epoch AND state = 'running' AND worker_id = :worker_id AND EXISTS (SELECT 1 FROM @run WHERE id = :run_id AND state IN ('pending', 'running'))
  /*pg AND (SELECT count(*) FROM r) = 1 */

-- held_by_dead: what a dead worker held
SELECT id, run_id, epoch, crashes FROM @agent_run WHERE worker_id = :worker_id AND state = 'running' ORDER BY id LIMIT 500

-- held_by_nobody: running under a worker that is not even a row any more
SELECT a.id, a.run_id, a.epoch, a.crashes, a.worker_id FROM @agent_run a
WHERE a.state = 'running' AND a.worker_id IS NOT NULL
  AND NOT EXISTS (SELECT 1 FROM @worker w WHERE w.id = a.worker_id) ORDER BY a.id LIMIT 500

-- quarantine_row: end an agent run that was on too many dying workers
UPDATE @agent_run SET state = 'failed', error = :error/*pg ::jsonb*/, finished_at = now(), worker_id = NULL, crashes = crashes + 1
WHERE id = :id AND epoch = :epoch AND state = 'running'

-- take_due: queued rows that nobody has published and that are due, marked as published by the caller
UPDATE @agent_run SET published_at = now(), dispatch = dispatch + 1
WHERE id IN (
    SELECT id FROM @agent_run
    WHERE state = 'queued' AND published_at IS NULL AND (due_at IS NULL OR due_at <= now())
    ORDER BY due_at LIMIT 500 /*pg FOR UPDATE SKIP LOCKED */
)
RETURNING id, run_id, agent, queue, dispatch, priority

-- next_due: seconds until the next unpublished row is due
SELECT min(due_at), now() FROM @agent_run WHERE state = 'queued' AND published_at IS NULL AND due_at > now()

-- queued_lanes: queues and priorities that have anything queued and published
SELECT DISTINCT queue, priority FROM @agent_run WHERE state = 'queued' AND published_at IS NOT NULL

-- lost_before_traffic: what was published well before something that has been claimed since
SELECT max(published_at) FROM (
    SELECT published_at FROM @agent_run
    WHERE queue = :queue AND priority = :priority AND state <> 'queued'
      AND claimed_at > ago(300) AND claimed_at < ago(:margin)
    ORDER BY claimed_at DESC LIMIT 200
) recent

-- idle_on_queue: whether a live worker has been idle on a queue for a while
SELECT 1 FROM @worker_queue q JOIN @worker w ON w.id = q.worker_id
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

-- stuck_runs: runs with a decision that nobody has taken
SELECT DISTINCT a.run_id FROM @agent_run a JOIN @countdown c ON c.id = a.id
WHERE a.state = 'blocked' AND a.gated AND c.remaining = 0 LIMIT 100

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
SET state = 'queued', worker_id = NULL, published_at = now(), dispatch = dispatch + 1, priority = 2, republished = 0
WHERE run_id = :run_id AND (due_at IS NULL OR due_at <= now()) AND (
    state = 'queued'
    OR (state = 'running' AND NOT EXISTS (SELECT 1 FROM @worker w WHERE w.id = worker_id AND w.beat_at > ago(:lease_ttl)))
)
RETURNING id, run_id, agent, queue, dispatch, priority
