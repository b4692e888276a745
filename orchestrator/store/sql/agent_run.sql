-- claim: take queued agent runs on Postgres; no row for one that is not queued, not due or gone
-- The runs are started before the agent runs are touched (the sub-select in `claimed` waits for `started`), and `= ANY` reads
-- by the index, so that locks are taken in one order everywhere: run, agent run, countdown, each by its id. `|| ''` keeps the
-- planner from the indexes on `state`: with a backlog they hold every queued row, and its plan is made once.
WITH started AS (
    UPDATE @run r SET state = 'running', started_at = now()
    WHERE r.id = ANY(:run_ids::uuid[]) AND r.state || '' = 'pending'
      AND EXISTS (
          SELECT 1 FROM @agent_run
          WHERE id = ANY(:ids::uuid[]) AND run_id = r.id AND state || '' = 'queued' AND (due_at IS NULL OR due_at <= now())
      )
    RETURNING r.id
), claimed AS (
    UPDATE @agent_run
    SET state = 'running', epoch = epoch + 1, worker_id = (:workers::uuid[])[array_position(:ids::uuid[], id)],
        worker = (SELECT w.name FROM @worker w WHERE w.id = (:workers::uuid[])[array_position(:ids::uuid[], @agent_run.id)]),
        claimed_at = now(), due_at = NULL, wake_at = NULL, started_at = coalesce(started_at, now())
    WHERE id = ANY(:ids::uuid[]) AND state || '' = 'queued' AND (due_at IS NULL OR due_at <= now())
      AND (SELECT count(*) FROM started) >= 0
    RETURNING id, run_id, task, position, agent, epoch, failures, crashes, predecessors, suspect, input, parent_id, subwork_id,
        has_subwork
)
SELECT c.id, c.task, c.position, c.agent, c.epoch, c.failures, c.crashes, r.workflow_id, r.tenant_id, r.input,
       CASE WHEN cardinality(c.predecessors) > 0 THEN (
           SELECT json_agg(json_build_array(p.task, p.state, p.output, p.error) ORDER BY p.position)
           FROM @agent_run p WHERE p.id = ANY(c.predecessors)
       ) END, c.suspect, c.input, r.project_id, c.parent_id, c.subwork_id,
       CASE WHEN c.subwork_id IS NOT NULL THEN (SELECT s.options FROM @subwork s WHERE s.id = c.subwork_id) END, c.has_subwork
FROM claimed c JOIN @run r ON r.id = c.run_id AND r.id = ANY(:run_ids::uuid[])

-- start_run: the first claim of a run makes it running
UPDATE @run SET state = 'running', started_at = now()
WHERE id = :run_id AND state = 'pending'
  AND EXISTS (SELECT 1 FROM @agent_run WHERE id = :id AND state = 'queued' AND (due_at IS NULL OR due_at <= now()))

-- claim_row: take a queued agent run, as a step of a transaction
UPDATE @agent_run
SET state = 'running', epoch = epoch + 1, worker_id = :worker_id, claimed_at = now(), due_at = NULL, wake_at = NULL,
    worker = (SELECT w.name FROM @worker w WHERE w.id = :worker_id), started_at = coalesce(started_at, now())
WHERE id = :id AND state = 'queued' AND (due_at IS NULL OR due_at <= now())
RETURNING task, position, agent, epoch, failures, crashes, predecessors, suspect, input, parent_id, subwork_id,
    (SELECT s.options FROM @subwork s WHERE s.id = subwork_id), has_subwork

-- claim_context: what an agent run needs besides its own row
SELECT workflow_id, tenant_id, input, project_id FROM @run WHERE id = :run_id

-- upstream: states and outputs of some agent runs of a run, on SQLite
SELECT task, state, output, error FROM @agent_run
WHERE id IN (SELECT value FROM json_each(:ids)) ORDER BY position

-- finish: end agent runs, join, release and end runs, in one statement on Postgres; no `done` row for a lost claim
-- `remaining` is decided by the decrement itself: counting members inside the transaction loses joins when two finish at once.
WITH f AS MATERIALIZED (
    SELECT * FROM jsonb_to_recordset(:endings::jsonb) AS f(
        id uuid, run_id uuid, epoch int, state text, output jsonb, error jsonb, usage jsonb, model text, failed int, waiting uuid[]
    )
), r AS MATERIALIZED (
    SELECT id FROM @run WHERE id = ANY(:run_ids::uuid[]) AND state || '' IN ('pending', 'running') ORDER BY id FOR SHARE
), done AS (
    UPDATE @agent_run a
    SET state = f.state, output = f.output -> 0, error = f.error -> 0, usage = f.usage -> 0, model = f.model,
        finished_at = now(), worker_id = NULL, failures = a.failures + f.failed, suspect = false
    FROM f
    WHERE a.id = ANY(:ids::uuid[]) AND a.id = f.id AND a.epoch = f.epoch AND a.state || '' = 'running'
      AND f.run_id IN (SELECT id FROM r)
    RETURNING a.id, a.epoch, f.waiting
), nearer AS MATERIALIZED (
    SELECT w.id, count(*)::int AS members FROM done, unnest(done.waiting) AS w(id) GROUP BY 1
), locked AS MATERIALIZED (
    SELECT id FROM @countdown WHERE id = ANY(:waiting::uuid[]) AND id IN (SELECT id FROM nearer) ORDER BY id FOR UPDATE
), joined AS (
    UPDATE @countdown c SET remaining = c.remaining - n.members
    FROM nearer n
    WHERE c.id = ANY(:waiting::uuid[]) AND c.id = n.id AND c.id IN (SELECT id FROM locked)
    RETURNING c.id, c.remaining
), released AS (
    UPDATE @agent_run a
    SET state = 'queued', queued_at = now(), published_at = now(), dispatch = dispatch + 1, republished = 0
    WHERE a.id = ANY(:waiting::uuid[]) AND a.id IN (SELECT id FROM nearer) AND a.state || '' = 'blocked' AND NOT a.gated
      AND NOT EXISTS (SELECT 1 FROM joined j WHERE j.id = a.id AND j.remaining > 0)
    RETURNING a.id, a.position, a.dispatch, a.priority, a.agent
), ended AS (
    UPDATE @run SET state = 'succeeded', finished_at = now()
    WHERE id = ANY(:run_ids::uuid[]) AND id IN (SELECT id FROM joined WHERE remaining = 0) AND id IN (SELECT id FROM r)
    RETURNING id
)
SELECT 'done', id, epoch, NULL::int, NULL::text FROM done
UNION ALL SELECT 'released', id, dispatch, priority, agent FROM released
UNION ALL SELECT 'ended', id, NULL, NULL, NULL FROM ended
UNION ALL SELECT 'undecided', id, NULL, NULL, NULL FROM joined
    WHERE remaining = 0 AND id <> ALL(:run_ids::uuid[]) AND id NOT IN (SELECT id FROM released)

-- lock_active_run: hold a run's state while its agent runs are queued; no row when the run has ended
SELECT id FROM @run WHERE id = :run_id AND state IN ('pending', 'running') /*pg FOR SHARE */

-- finish_row: end an agent run, as a step of a transaction
UPDATE @agent_run
SET state = :state, output = :output/*pg ::jsonb*/, error = :error/*pg ::jsonb*/, usage = :usage/*pg ::jsonb*/,
    model = :model, finished_at = now(), worker_id = NULL, failures = failures + :failed, suspect = false
WHERE id = :id AND epoch = :epoch AND state || '' = 'running'

-- count_down: one predecessor less to wait for; the row that shows 0 is the decision
UPDATE @countdown SET remaining = remaining - 1 WHERE id = :id RETURNING remaining

-- release_row: queue a blocked agent run whose predecessors are done, and note that it will be published
UPDATE @agent_run
SET state = 'queued', queued_at = now(), published_at = now(), dispatch = dispatch + 1, republished = 0
WHERE id = :id AND state = 'blocked' AND (NOT gated OR :decided)
RETURNING id, position, dispatch, priority, agent

-- end_run: a run whose last end is final has succeeded
UPDATE @run SET state = 'succeeded', finished_at = now() WHERE id = :run_id AND state IN ('pending', 'running')

-- skip_row: a blocked agent run that will never be needed
UPDATE @agent_run SET state = 'skipped', finished_at = now() WHERE id = :id AND state = 'blocked'

-- settle_row: a blocked agent run that is decided without a worker, and what has come of it
UPDATE @agent_run SET state = 'succeeded', output = :output/*pg ::jsonb*/, finished_at = now()
WHERE id = :id AND state = 'blocked'

-- requeue: put a running agent run back, by its holder, due in some seconds and not yet published
/*pg WITH r AS MATERIALIZED (
    SELECT id FROM @run WHERE id = :run_id AND state IN ('pending', 'running') FOR SHARE
) */
UPDATE @agent_run
SET state = 'queued', worker_id = NULL, queued_at = now(), due_at = later(:delay), published_at = NULL, republished = 0,
    failures = CASE WHEN :agent/*pg ::text*/ IS NULL THEN failures + :failed ELSE 0 END, error = :error/*pg ::jsonb*/,
    crashes = CASE WHEN :agent/*pg ::text*/ IS NULL THEN crashes ELSE 0 END, suspect = suspect AND :failed = 0,
    priority = 1, agent = coalesce(:agent/*pg ::text*/, agent), queue = coalesce(:queue/*pg ::text*/, queue)
WHERE id = :id AND epoch = :epoch AND state = 'running' AND EXISTS (SELECT 1 FROM @run WHERE id = :run_id AND state IN ('pending', 'running'))
  /*pg AND (SELECT count(*) FROM r) = 1 */

-- charge_crash: count a death without releasing the claim
UPDATE @agent_run SET crashes = crashes + 1 WHERE id = :id AND epoch = :epoch AND state = 'running'

-- fail_row: end a running agent run as failed, by its holder
UPDATE @agent_run
SET state = 'failed', error = :error/*pg ::jsonb*/, usage = :usage/*pg ::jsonb*/, model = :model, finished_at = now(),
    worker_id = NULL, failures = failures + :failed, suspect = false
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
SELECT a.state, a.output, a.error, a.finished_at, a.started_at, a.epoch, a.dispatch FROM @agent_run a WHERE a.id = :id

-- claim_still_held: whether an executor may go on
SELECT 1 FROM @agent_run WHERE id = :id AND epoch = :epoch AND state = 'running'

-- outcome_of: how a claim ended, for an executor whose completion got no answer
SELECT state FROM @agent_run WHERE id = :id AND epoch = :epoch

-- queued_among: those of some agent runs that are queued, with what publishing needs
SELECT id, position, dispatch, priority, agent FROM @agent_run WHERE run_id = :run_id AND id = :id AND state = 'queued'

-- force_cancel_agent_run: which run an agent run belongs to and whether it is still open
SELECT run_id, state FROM @agent_run WHERE id = :id
