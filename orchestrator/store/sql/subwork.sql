-- hold_caller: hold an agent run whose claim is current, to ask for sub-work, and note that it has
-- `|| ''` keeps the planner from the indexes on `state`, here and below: see `claim`.
UPDATE @agent_run SET has_subwork = true WHERE id = :id AND epoch = :epoch AND state || '' = 'running' RETURNING task

-- subwork_at: what was asked for at a place of an agent's code, and how the effect there is recorded
SELECT s.id, s.state, s.fingerprint, s.first_number, s.size, j.state
FROM @subwork s
LEFT JOIN @journal j ON j.agent_run_id = s.parent_id AND j.scope = s.scope AND j.number = s.number
WHERE s.parent_id = :parent_id AND s.scope = :scope AND s.number = :number AND s.state <> 'void'

-- last_number: how many agent runs an agent run has asked for
SELECT coalesce(max(first_number + size - 1), 0) FROM @subwork WHERE parent_id = :parent_id

-- take_positions: give positions of a run to sub-work, behind those that were given; no row for more than there may be
INSERT INTO @subwork_count AS c (run_id, tenant_id, taken) VALUES (:run_id, :tenant_id, :size)
ON CONFLICT (run_id) DO UPDATE SET taken = c.taken + :size/*pg ::int*/ WHERE c.taken + :size/*pg ::int*/ <= :most/*pg ::int*/
RETURNING taken

-- add_subwork: note what was asked for
INSERT INTO @subwork (
    id, tenant_id, run_id, parent_id, scope, number, fingerprint, agent, state, first_number, first_position, size,
    max_concurrency, fail_fast, return_exceptions, next_position, remaining, failures, options, label, created_at
)
VALUES (
    :id, :tenant_id, :run_id, :parent_id, :scope, :number, :fingerprint, :agent, 'open', :first_number, :first_position, :size,
    :max_concurrency, :fail_fast, :return_exceptions, :next_position, :size, 0,
    :options/*pg ::jsonb*/, :label, now()
)

-- release_subwork: queue the next agent runs of sub-work, and note that they will be published
UPDATE @agent_run
SET state = 'queued', queued_at = now(), published_at = now(), dispatch = dispatch + 1, republished = 0
WHERE id IN (
    SELECT id FROM @agent_run
    WHERE subwork_id = :id AND position >= :first AND state || '' = 'blocked' AND parent_id IS NOT NULL
    ORDER BY position LIMIT :most
)
RETURNING id, position, agent, dispatch, priority

-- move_on: none before this position is left to be queued
UPDATE @subwork SET next_position = :next_position WHERE id = :id

-- open_runs_among: those of some runs that are open, held in their state
SELECT id FROM @run WHERE id = ANY(:ids::uuid[]) AND state || '' IN ('pending', 'running') ORDER BY id /*pg FOR SHARE */

-- hold_agent_runs: hold agent runs for a change, all in one order
-- Not against foreign keys: what is recorded meanwhile names them.
SELECT id, state, epoch, listening FROM @agent_run WHERE id = ANY(:ids::uuid[]) ORDER BY id /*pg FOR NO KEY UPDATE */

-- count_ends: note how many agent runs of sub-work have ended, and how many of them have failed
UPDATE @subwork SET remaining = remaining - :ended, failures = failures + :failed WHERE id = :id
RETURNING state, remaining, failures, fail_fast, return_exceptions, next_position, parent_id,
    next_position < first_position + size

-- close_subwork: sub-work has an outcome
UPDATE @subwork SET state = :state WHERE id = :id

-- wake_caller: queue a suspended agent run since what it waits for has ended, and note that it will be published
UPDATE @agent_run
SET state = 'queued', queued_at = now(), due_at = NULL, published_at = now(), dispatch = dispatch + 1, priority = 1,
    republished = 0, wake_at = NULL, waiting_for = NULL, listening = NULL
WHERE id = :id AND state || '' = 'suspended'
RETURNING agent, dispatch, priority

-- cancels_rest: whether the first failure of some sub-work cancels the rest of it
SELECT 1 FROM @subwork WHERE id = :id AND fail_fast AND NOT return_exceptions

-- open_of_subwork: its agent runs that have not ended
SELECT id FROM @agent_run
WHERE subwork_id = :id AND parent_id IS NOT NULL AND state || '' IN ('blocked', 'queued', 'running', 'suspended') ORDER BY position

-- open_of_callers: what some agent runs have asked for, and has not ended
SELECT id FROM @agent_run
WHERE parent_id = ANY(:ids::uuid[]) AND state || '' IN ('blocked', 'queued', 'running', 'suspended') ORDER BY id

-- cancel_agent_runs: end agent runs that nobody wants any more
UPDATE @agent_run SET state = 'cancelled', finished_at = now(), worker_id = NULL
WHERE id = ANY(:ids::uuid[]) AND state || '' IN ('blocked', 'queued', 'running', 'suspended')

-- stop_subwork_of: what some agent runs have asked for goes on no more
-- Nor does what has failed and was not looked at: who asks for it again is to have it resumed.
UPDATE @subwork SET state = 'stopped'
WHERE parent_id = ANY(:ids::uuid[]) AND (state || '' = 'open' OR state || '' = 'failed' AND EXISTS (
    SELECT 1 FROM @journal j
    WHERE j.agent_run_id = @subwork.parent_id AND j.scope = @subwork.scope AND j.number = @subwork.number AND j.state = 'begun'
))

-- stop_subwork_of_run: what the agent runs of a run have asked for goes on no more; see `stop_subwork_of`
UPDATE @subwork SET state = 'stopped'
WHERE run_id = :run_id AND (state || '' = 'open' OR state || '' = 'failed' AND EXISTS (
    SELECT 1 FROM @journal j
    WHERE j.agent_run_id = @subwork.parent_id AND j.scope = @subwork.scope AND j.number = @subwork.number AND j.state = 'begun'
))

-- subwork_states: those of some sub-work that have an outcome, or were stopped
SELECT id FROM @subwork WHERE id = ANY(:ids::uuid[]) AND state || '' <> 'open' LIMIT 1

-- subwork_of: what an agent run has asked for and is not void, by place
SELECT id, scope, number, state FROM @subwork WHERE parent_id = :parent_id AND state <> 'void'

-- void_subwork: let sub-work not be taken up any more
UPDATE @subwork SET state = 'void' WHERE id = :id

-- void_subwork_of: let nothing be taken up any more that an agent run has asked for
UPDATE @subwork SET state = 'void' WHERE parent_id = :parent_id AND state || '' <> 'void'

-- void_subwork_open: let nothing be taken up any more that what has not succeeded of a run has asked for
UPDATE @subwork SET state = 'void'
WHERE run_id = :run_id AND state || '' <> 'void'
  AND parent_id IN (SELECT id FROM @agent_run WHERE run_id = :run_id AND state <> 'succeeded')

-- subwork_fallbacks: agent runs of sub-work that were given to an agent that is none of some
SELECT id FROM @agent_run
WHERE subwork_id = :id AND parent_id IS NOT NULL AND state || '' IN ('failed', 'cancelled')
  AND NOT (agent = ANY(:agents::text[]))

-- resume_subwork_rows: put agent runs of sub-work back to the start that did not succeed; what they have recorded stays
UPDATE @agent_run
SET state = 'blocked', failures = 0, crashes = 0, suspect = false, error = NULL, worker_id = NULL, worker = NULL,
    finished_at = NULL, started_at = NULL, queued_at = NULL, published_at = NULL, due_at = NULL, wake_at = NULL,
    waiting_for = NULL, priority = 1, republished = 0,
    agent = CASE WHEN agent = ANY(:agents::text[]) THEN agent ELSE :agent END,
    queue = CASE WHEN agent = ANY(:agents::text[]) THEN queue ELSE :queue END
WHERE subwork_id = :id AND parent_id IS NOT NULL AND state || '' IN ('failed', 'cancelled')

-- resume_subwork: let sub-work go on with what is left of it
UPDATE @subwork SET state = 'open', remaining = :remaining, failures = 0, next_position = first_position,
    max_concurrency = :max_concurrency, fail_fast = :fail_fast, return_exceptions = :return_exceptions,
    options = :options/*pg ::jsonb*/, label = :label
WHERE id = :id
RETURNING first_position

-- subwork_ends: how agent runs of sub-work have ended, in the order of the inputs
SELECT position, task, state, output, error FROM @agent_run
WHERE subwork_id = :id AND parent_id IS NOT NULL AND position > :after ORDER BY position LIMIT :most

-- subwork_ends_ahead: how single agent runs have ended that one has asked for, from some sub-work on, in their order
SELECT s.id, a.task, a.state, a.output, a.error
FROM @subwork s JOIN @agent_run a ON a.id = s.id
WHERE s.parent_id = :parent_id AND s.id >= :id AND s.size = 1 AND s.state || '' = 'done' ORDER BY s.id LIMIT :most

-- subwork_failure: the first failure of sub-work in the order of the inputs, and how many there are
SELECT a.task, a.error, s.failures, s.size FROM @agent_run a JOIN @subwork s ON s.id = a.subwork_id
WHERE a.subwork_id = :id AND a.parent_id IS NOT NULL AND a.state || '' = 'failed' ORDER BY a.position LIMIT 1

-- queued_around: what the end of an agent run of sub-work may have queued, with what publishing needs
SELECT id, dispatch, agent, priority FROM @agent_run WHERE id = :parent_id AND state || '' = 'queued'
UNION ALL
SELECT * FROM (
    SELECT id, dispatch, agent, priority FROM @agent_run
    WHERE subwork_id = :id AND parent_id IS NOT NULL AND state || '' = 'queued' LIMIT 100
) next

-- asker_of: how the effect stands that has asked for an agent run, and its sub-work
SELECT s.state, j.state, s.parent_id
FROM @agent_run a JOIN @subwork s ON s.id = a.subwork_id
LEFT JOIN @journal j ON j.agent_run_id = s.parent_id AND j.scope = s.scope AND j.number = s.number
WHERE a.id = :id

-- agent_run_of_task: the agent run of a task of a run, of sub-work too
SELECT id FROM @agent_run WHERE run_id = :run_id AND task = :task ORDER BY position DESC LIMIT 1
