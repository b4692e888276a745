-- database_now: the database's time
SELECT now()

-- whereabouts: the time, and which table of which server this is, as text that no setting of a session changes
SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US'),
       to_char(pg_postmaster_start_time() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US'),
       current_database()::text, to_regclass(:table::text)::oid::bigint

-- project_names: what a project and its tenant are called
SELECT t.name, p.name FROM @project p JOIN @tenant t ON t.id = p.tenant_id WHERE p.id = :id

-- find_project: a project by name
SELECT p.id, p.tenant_id FROM @project p WHERE p.name = :name AND p.tenant_id = :tenant_id

-- add_project: a project on its first use
INSERT INTO @project (id, tenant_id, name, created_at) VALUES (:id, :tenant_id, :name, now()) ON CONFLICT DO NOTHING

-- find_workflow: a definition by content
SELECT id FROM @workflow WHERE tenant_id = :tenant_id AND digest = :digest

-- add_workflow: a definition on its first use
INSERT INTO @workflow (id, tenant_id, digest, name, definition, created_at)
VALUES (:id, :tenant_id, :digest, :name, :definition/*pg ::jsonb*/, now()) ON CONFLICT DO NOTHING

-- workflow_definition: the definition that runs keep
SELECT definition, digest FROM @workflow WHERE id = :id

-- runs_by_keys: the runs that used idempotency keys first
SELECT idempotency_key, id, workflow_id, input_digest FROM @run
WHERE project_id = :project_id AND idempotency_key = ANY(:keys::text[])

-- lock_run: hold a run alone, for a change of its state that no agent run may overtake
SELECT state, workflow_id, ending FROM @run WHERE id = :run_id /*pg FOR UPDATE */

-- run_for_advance: a run that is still open, held alone while its decisions are taken
SELECT workflow_id, input FROM @run WHERE id = :run_id AND state IN ('pending', 'running') /*pg FOR UPDATE */

-- set_run_state: end a run, or open it again: a deadline that has passed does not end it a second time
UPDATE @run SET state = :state/*pg ::text*/, error = :error/*pg ::jsonb*/,
    finished_at = CASE WHEN :state/*pg ::text*/ = 'pending' THEN NULL ELSE now() END,
    deadline_at = CASE WHEN :state/*pg ::text*/ = 'pending' AND deadline_at <= now() THEN NULL ELSE deadline_at END
WHERE id = :run_id

-- overdue_runs: open runs whose deadline has passed, but for those that only undo what they did
SELECT id, created_at, deadline_at FROM @run
WHERE deadline_at <= now() AND finished_at IS NULL AND ending IS NULL AND state IN ('pending', 'running')
ORDER BY deadline_at LIMIT 100

-- lock_overdue: hold one of them alone
SELECT workflow_id FROM @run
WHERE id = :run_id AND deadline_at <= now() AND ending IS NULL AND state IN ('pending', 'running') /*pg FOR UPDATE */

-- rows_for_retry: every agent run of a run that is a task or a compensation, to decide what a retry does with it
SELECT id, position, task, state, assigned, agent FROM @agent_run WHERE run_id = :run_id AND parent_id IS NULL ORDER BY position

-- reopen_row: put an agent run that did not succeed back to the start
UPDATE @agent_run
SET state = :state/*pg ::text*/, failures = 0, crashes = 0, suspect = false, error = NULL, worker_id = NULL, worker = NULL,
    finished_at = NULL, started_at = NULL,
    due_at = NULL, wake_at = NULL, waiting_for = NULL, priority = 1, agent = :agent, queue = :queue, republished = 0,
    queued_at = CASE WHEN :state/*pg ::text*/ = 'queued' THEN now() END,
    published_at = CASE WHEN :state/*pg ::text*/ = 'queued' THEN now() END,
    dispatch = dispatch + CASE WHEN :state/*pg ::text*/ = 'queued' THEN 1 ELSE 0 END
WHERE id = :id
RETURNING id, position, dispatch, priority

-- set_countdown: how many predecessors are left to wait for, after a retry has counted them under the run's lock
UPDATE @countdown SET remaining = :remaining WHERE id = :id

-- run_head: the run itself
SELECT r.id, p.name, w.name, r.state, r.input, r.error, r.created_at, r.started_at, r.finished_at, r.workflow_id,
       r.ending, r.deadline_at, r.forked_from, r.user_label, r.variant
FROM @run r JOIN @project p ON p.id = r.project_id JOIN @workflow w ON w.id = r.workflow_id
WHERE r.id = :run_id

-- run_parts: its agent runs
SELECT a.id, a.task, a.agent, a.state, a.epoch, a.failures, a.crashes, a.worker, a.model, a.output, a.error, a.usage,
       a.queued_at, a.started_at, a.finished_at, a.queue, a.worker_id, a.waiting_for, a.wake_at,
       s.state, s.label
FROM @agent_run a LEFT JOIN @subwork s ON s.id = a.subwork_id
WHERE a.run_id = :run_id ORDER BY a.position

-- run_pulse: as little as tells whether anything has changed
SELECT state FROM @run WHERE id = :run_id

-- runs_pulse: the same of many runs
SELECT id, state FROM @run WHERE id = ANY(:ids::uuid[])

-- run_states: states and epochs of the agent runs, for the stream of events
SELECT a.position, a.task, a.agent, a.state, a.epoch, a.error, coalesce(a.finished_at, a.claimed_at, a.queued_at), a.waiting_for,
       s.label
FROM @agent_run a LEFT JOIN @subwork s ON s.id = a.subwork_id
WHERE a.run_id = :run_id ORDER BY a.position

-- add_event: a progress line of an agent
INSERT INTO @run_event (id, tenant_id, run_id, task, message, data, created_at)
VALUES (:id, :tenant_id, :run_id, :task, :message, :data/*pg ::jsonb*/, now())

-- events_after: progress lines behind a cursor
SELECT id, task, message, data, created_at FROM @run_event
WHERE run_id = :run_id AND id > :after/*pg ::uuid*/ ORDER BY id LIMIT 1000

-- unfinished_runs: open runs, oldest first
SELECT id FROM @run WHERE state IN ('pending', 'running') ORDER BY created_at, id
