-- claim: take a queued agent run on Postgres; no row when it is not queued, not due or gone
-- The run is started before the agent run is touched (the sub-select in `claimed` waits for `started`), so that locks are
-- taken in one order everywhere: run, agent run, countdown.
WITH started AS (
    UPDATE @run SET state = 'running', started_at = now()
    WHERE id = :run_id AND state = 'pending'
      AND EXISTS (SELECT 1 FROM @agent_run WHERE id = :id AND state = 'queued' AND (due_at IS NULL OR due_at <= now()))
    RETURNING id
), claimed AS (
    UPDATE @agent_run
    SET state = 'running', epoch = epoch + 1, worker_id = :worker_id, claimed_at = now(), due_at = NULL,
        started_at = coalesce(started_at, now())
    WHERE id = :id AND state = 'queued' AND (due_at IS NULL OR due_at <= now()) AND (SELECT count(*) FROM started) >= 0
    RETURNING task, position, agent, epoch, failures, crashes, predecessors
)
SELECT c.task, c.position, c.agent, c.epoch, c.failures, c.crashes, r.workflow_id, r.tenant_id, r.input,
       CASE WHEN cardinality(c.predecessors) > 0 THEN (
           SELECT json_agg(json_build_array(p.task, p.state, p.output, p.error) ORDER BY p.position)
           FROM @agent_run p WHERE p.id = ANY(c.predecessors)
       ) END
FROM claimed c JOIN @run r ON r.id = :run_id

-- start_run: the first claim of a run makes it running
UPDATE @run SET state = 'running', started_at = now()
WHERE id = :run_id AND state = 'pending'
  AND EXISTS (SELECT 1 FROM @agent_run WHERE id = :id AND state = 'queued' AND (due_at IS NULL OR due_at <= now()))

-- claim_row: take a queued agent run, as a step of a transaction
UPDATE @agent_run
SET state = 'running', epoch = epoch + 1, worker_id = :worker_id, claimed_at = now(), due_at = NULL,
    started_at = coalesce(started_at, now())
WHERE id = :id AND state = 'queued' AND (due_at IS NULL OR due_at <= now())
RETURNING task, position, agent, epoch, failures, crashes, predecessors

-- claim_context: what an agent run needs besides its own row
SELECT workflow_id, tenant_id, input FROM @run WHERE id = :run_id

-- upstream: states and outputs of some agent runs of a run, on SQLite
SELECT task, state, output, error FROM @agent_run
WHERE id IN (SELECT value FROM json_each(:ids)) ORDER BY position

-- finish: end an agent run, join, release and end the run, in one statement on Postgres; no row for a lost claim
-- `remaining` is decided by the decrement itself: counting members inside the transaction loses joins when two finish at once.
WITH r AS MATERIALIZED (
    SELECT id FROM @run WHERE id = :run_id AND state IN ('pending', 'running') FOR SHARE
), done AS (
    UPDATE @agent_run
    SET state = :state, output = :output::jsonb, error = :error::jsonb, usage = :usage::jsonb, model = :model,
        finished_at = now(), worker_id = NULL, failures = failures + :failed
    WHERE id = :id AND epoch = :epoch AND state = 'running' AND (SELECT count(*) FROM r) = 1
    RETURNING id
), locked AS MATERIALIZED (
    SELECT id FROM @countdown WHERE id = ANY(:waiting::uuid[]) AND (SELECT count(*) FROM done) = 1 ORDER BY id FOR UPDATE
), joined AS (
    UPDATE @countdown SET remaining = remaining - 1 WHERE id IN (SELECT id FROM locked) RETURNING id, remaining
), released AS (
    UPDATE @agent_run a
    SET state = 'queued', queued_at = now(), published_at = now(), dispatch = dispatch + 1, republished = 0
    WHERE a.id = ANY(:waiting::uuid[]) AND a.state = 'blocked' AND NOT a.gated AND (SELECT count(*) FROM done) = 1
      AND NOT EXISTS (SELECT 1 FROM joined j WHERE j.id = a.id AND j.remaining > 0)
    RETURNING a.id, a.position, a.dispatch, a.priority
), ended AS (
    UPDATE @run SET state = 'succeeded', finished_at = now()
    WHERE id = :run_id AND EXISTS (SELECT 1 FROM joined j WHERE j.id = :run_id AND j.remaining = 0)
    RETURNING id
)
SELECT (SELECT count(*) FROM ended),
       (SELECT count(*) FROM joined j WHERE j.remaining = 0 AND j.id <> :run_id AND j.id NOT IN (SELECT id FROM released)),
       rel.id, rel.position, rel.dispatch, rel.priority
FROM done LEFT JOIN released rel ON true

-- lock_active_run: hold a run's state while its agent runs are queued; no row when the run has ended
SELECT id FROM @run WHERE id = :run_id AND state IN ('pending', 'running') /*pg FOR SHARE */

-- finish_row: end an agent run, as a step of a transaction
UPDATE @agent_run
SET state = :state, output = :output/*pg ::jsonb*/, error = :error/*pg ::jsonb*/, usage = :usage/*pg ::jsonb*/,
    model = :model, finished_at = now(), worker_id = NULL, failures = failures + :failed
WHERE id = :id AND epoch = :epoch AND state = 'running'

-- count_down: one predecessor less to wait for; the row that shows 0 is the decision
UPDATE @countdown SET remaining = remaining - 1 WHERE id = :id RETURNING remaining

-- release_row: queue a blocked agent run whose predecessors are done, and note that it will be published
UPDATE @agent_run
SET state = 'queued', queued_at = now(), published_at = now(), dispatch = dispatch + 1, republished = 0
WHERE id = :id AND state = 'blocked' AND (NOT gated OR :decided)
RETURNING id, position, dispatch, priority

-- end_run: a run whose last end is final has succeeded
UPDATE @run SET state = 'succeeded', finished_at = now() WHERE id = :run_id AND state IN ('pending', 'running')

-- skip_row: a blocked agent run that will never be needed
UPDATE @agent_run SET state = 'skipped', finished_at = now() WHERE id = :id AND state = 'blocked'

-- requeue: put a running agent run back, by its holder, due in some seconds and not yet published
/*pg WITH r AS MATERIALIZED (
    SELECT id FROM @run WHERE id = :run_id AND state IN ('pending', 'running') FOR SHARE
) */
UPDATE @agent_run
SET state = 'queued', worker_id = NULL, queued_at = now(), due_at = later(:delay), published_at = NULL, republished = 0,
    failures = CASE WHEN :agent/*pg ::text*/ IS NULL THEN failures + :failed ELSE 0 END, error = :error/*pg ::jsonb*/,
    priority = 1, agent = coalesce(:agent/*pg ::text*/, agent), queue = coalesce(:queue/*pg ::text*/, queue)
WHERE id = :id AND epoch = :epoch AND state = 'running' AND EXISTS (SELECT 1 FROM @run WHERE id = :run_id AND state IN ('pending', 'running'))
  /*pg AND (SELECT count(*) FROM r) = 1 */

-- fail_row: end a running agent run as failed, by its holder
UPDATE @agent_run
SET state = 'failed', error = :error/*pg ::jsonb*/, usage = :usage/*pg ::jsonb*/, model = :model, finished_at = now(),
    worker_id = NULL, failures = failures + :failed
WHERE id = :id AND epoch = :epoch AND state = 'running'

-- fail_undecided: a blocked agent run whose condition cannot be decided
UPDATE @agent_run SET state = 'failed', error = :error/*pg ::jsonb*/, finished_at = now() WHERE id = :id AND state = 'blocked'

-- cancel_open: end what has not ended of a run
UPDATE @agent_run SET state = 'cancelled', finished_at = now(), worker_id = NULL
WHERE run_id = :run_id AND state IN ('blocked', 'queued', 'running', 'suspended')

-- unpublished: publications that did not reach the broker; the sweep sends them again
UPDATE @agent_run SET published_at = NULL
WHERE id = :id AND dispatch = :dispatch AND state = 'queued'

-- gated_ready: agent runs that only wait for their condition to be decided
SELECT a.id, a.position FROM @agent_run a JOIN @countdown c ON c.id = a.id
WHERE a.run_id = :run_id AND a.state = 'blocked' AND a.gated AND c.remaining = 0 ORDER BY a.position

-- run_upstream: states, outputs and errors of all agent runs of a run
SELECT task, state, output, error FROM @agent_run WHERE run_id = :run_id ORDER BY position

-- agent_run_state: what Celery's result backend shows of an agent run
SELECT a.state, a.output, a.error, a.finished_at, a.epoch, a.dispatch FROM @agent_run a WHERE a.id = :id

-- claim_still_held: whether an executor may go on
SELECT 1 FROM @agent_run WHERE id = :id AND epoch = :epoch AND state = 'running'

-- outcome_of: how a claim ended, for an executor whose completion got no answer
SELECT state FROM @agent_run WHERE id = :id AND epoch = :epoch

-- queued_among: those of some agent runs that are queued, with what publishing needs
SELECT id, position, dispatch, priority FROM @agent_run WHERE run_id = :run_id AND id = :id AND state = 'queued'

-- force_cancel_agent_run: which run an agent run belongs to and whether it is still open
SELECT run_id, state FROM @agent_run WHERE id = :id
