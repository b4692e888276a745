-- suspend: let a running agent run wait, by its holder; one that was woken since its claim goes straight back to its queue
-- What has come that far well is no suspect any more.
-- A wake-up of a running row is its `wake_at`. This statement and whoever wakes both change the row itself, so one of them
-- comes second and sees what the first one did. It needs no lock on the run: a cancellation that waits for this row sees it
-- as it is then, and both states are among those that it ends.
UPDATE @agent_run
SET state = CASE WHEN wake_at IS NULL THEN 'suspended' ELSE 'queued' END, worker_id = NULL, suspect = false, priority = 1,
    republished = 0, queued_at = CASE WHEN wake_at IS NULL THEN queued_at ELSE now() END,
    published_at = CASE WHEN wake_at IS NULL THEN published_at ELSE now() END,
    dispatch = dispatch + CASE WHEN wake_at IS NULL THEN 0 ELSE 1 END,
    waiting_for = CASE WHEN wake_at IS NULL THEN :waiting_for/*pg ::text*/ END,
    wake_at = CASE WHEN wake_at IS NULL THEN later(:left) END,
    listening = CASE WHEN wake_at IS NULL THEN :listening/*pg ::jsonb*/ END
WHERE id = :id AND epoch = :epoch AND state = 'running'
RETURNING state, agent, dispatch, priority

-- wake_due: suspended agent runs whose time has come, queued and marked as published by the caller
UPDATE @agent_run
SET state = 'queued', queued_at = now(), published_at = now(), dispatch = dispatch + 1, priority = 1, republished = 0,
    wake_at = NULL, waiting_for = NULL
WHERE id IN (
    SELECT id FROM @agent_run WHERE state = 'suspended' AND wake_at <= now()
    ORDER BY wake_at LIMIT 500 /*pg FOR UPDATE SKIP LOCKED */
)
RETURNING id, run_id, agent, queue, dispatch, priority

-- wake_due_of: the same for some runs only: those of one embedded process
UPDATE @agent_run
SET state = 'queued', queued_at = now(), published_at = now(), dispatch = dispatch + 1, priority = 1, republished = 0,
    wake_at = NULL, waiting_for = NULL
WHERE id IN (
    SELECT id FROM @agent_run WHERE state = 'suspended' AND wake_at <= now() AND run_id = ANY(:runs::uuid[])
    ORDER BY wake_at LIMIT 500 /*pg FOR UPDATE SKIP LOCKED */
)
RETURNING id, run_id, agent, queue, dispatch, priority

-- lock_agent_run: hold an agent run alone while an event for it is recorded
SELECT state FROM @agent_run WHERE id = :id /*pg FOR UPDATE */

-- wake: queue a suspended agent run for an event, not yet published
UPDATE @agent_run
SET state = 'queued', queued_at = now(), due_at = NULL, published_at = NULL, priority = 1, republished = 0, wake_at = NULL,
    waiting_for = NULL
WHERE id = :id AND state = 'suspended'

-- note_wake: an event for an agent run that does not wait yet: it will not suspend without having looked again
-- A queued one will look anyway, when it is claimed.
UPDATE @agent_run SET wake_at = now() WHERE id = :id AND state = 'running'

-- drop_wake: forget the wake-up of a running agent run that has taken up every event, as a step of a transaction that holds it
UPDATE @agent_run SET wake_at = NULL
WHERE id = :id AND epoch = :epoch AND state = 'running' AND wake_at IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM @question q
    JOIN @journal j ON j.agent_run_id = q.agent_run_id AND j.scope = q.scope AND j.number = q.number
    WHERE q.agent_run_id = :id AND q.state || '' = 'answered' AND j.state = 'begun'
)

-- ask: put a question, by the holder of the claim; an earlier one at the same place was given up, and is replaced
-- The run is held before the agent run, in the order in which everybody locks: the row's foreign key would do it after.
/*pg WITH r AS MATERIALIZED (SELECT id FROM @run WHERE id = :run_id FOR KEY SHARE) */
INSERT INTO @question (
    id, tenant_id, run_id, agent_run_id, scope, number, state, text, request, digest, expires_at, created_at
)
SELECT :id/*pg ::uuid*/, a.tenant_id, a.run_id, a.id, :scope/*pg ::text*/, :number/*pg ::int*/, 'open', :text/*pg ::text*/,
       :request/*pg ::jsonb*/, :digest/*pg ::text*/, later(:expires), now()
FROM @agent_run a WHERE a.id = :agent_run_id AND a.epoch = :epoch AND a.state = 'running'
  /*pg AND (SELECT count(*) FROM r) = 1 FOR SHARE */
ON CONFLICT (agent_run_id, scope, number) DO UPDATE
SET id = excluded.id, state = 'open', text = excluded.text, request = excluded.request, digest = excluded.digest,
    expires_at = excluded.expires_at, created_at = excluded.created_at, answer = NULL, answered_by = NULL, answered_at = NULL

-- question_at: what has become of the question at a place in an agent's code
SELECT id, state, answer, expires_at, now() FROM @question
WHERE agent_run_id = :agent_run_id AND scope = :scope AND number = :number

-- expire_question: close an open question whose time is over
UPDATE @question SET state = 'expired' WHERE id = :id AND state = 'open' AND expires_at <= now()

-- find_question: whose question it is
SELECT run_id, agent_run_id FROM @question WHERE id = :id

-- question: a question, open or not
SELECT q.id, q.run_id, p.name, w.name, a.task, a.agent, q.text, q.request, q.digest, q.created_at, q.expires_at
FROM @question q JOIN @agent_run a ON a.id = q.agent_run_id
JOIN @run r ON r.id = q.run_id JOIN @project p ON p.id = r.project_id JOIN @workflow w ON w.id = r.workflow_id
WHERE q.id = :id

-- question_to_answer: a question with all that decides whether it may be answered, held alone
SELECT q.state, q.digest, q.expires_at, now(), j.state
FROM @question q
LEFT JOIN @journal j ON j.agent_run_id = q.agent_run_id AND j.scope = q.scope AND j.number = q.number
WHERE q.id = :id /*pg FOR UPDATE OF q */

-- answer_question: the answer
UPDATE @question SET state = 'answered', answer = :answer/*pg ::jsonb*/, answered_by = :by, answered_at = now()
WHERE id = :id AND state = 'open'

-- open_questions: questions that an answer is awaited for, oldest first
-- An agent run that has ended awaits none, nor does one that has given its journal up.
SELECT q.id, q.run_id, p.name, w.name, a.task, a.agent, q.text, q.request, q.digest, q.created_at, q.expires_at
FROM @question q
JOIN @agent_run a ON a.id = q.agent_run_id AND a.state IN ('queued', 'running', 'suspended')
JOIN @journal j ON j.agent_run_id = q.agent_run_id AND j.scope = q.scope AND j.number = q.number AND j.state = 'begun'
JOIN @run r ON r.id = q.run_id JOIN @project p ON p.id = r.project_id JOIN @workflow w ON w.id = r.workflow_id
WHERE q.state = 'open' AND (q.expires_at IS NULL OR q.expires_at > now())
  AND (:project/*pg ::text*/ IS NULL OR p.name = :project/*pg ::text*/)
ORDER BY q.created_at, q.id LIMIT :most

-- open_questions_of: the same of one run
SELECT q.id, q.run_id, p.name, w.name, a.task, a.agent, q.text, q.request, q.digest, q.created_at, q.expires_at
FROM @question q
JOIN @agent_run a ON a.id = q.agent_run_id AND a.state IN ('queued', 'running', 'suspended')
JOIN @journal j ON j.agent_run_id = q.agent_run_id AND j.scope = q.scope AND j.number = q.number AND j.state = 'begun'
JOIN @run r ON r.id = q.run_id JOIN @project p ON p.id = r.project_id JOIN @workflow w ON w.id = r.workflow_id
WHERE q.run_id = :run_id AND q.state || '' = 'open' AND (q.expires_at IS NULL OR q.expires_at > now())
  AND (:project/*pg ::text*/ IS NULL OR p.name = :project/*pg ::text*/)
ORDER BY q.created_at, q.id LIMIT :most
