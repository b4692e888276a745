-- webhook_put: an endpoint, made, or changed and switched on again
INSERT INTO @webhook_endpoint (id, tenant_id, project_id, name, url, events, secrets, options, active, failures, created_at)
VALUES (:id, :tenant_id, :project_id/*pg ::uuid*/, :name, :url, :events/*pg ::jsonb*/, :secrets/*pg ::jsonb*/,
        :options/*pg ::jsonb*/, true, 0, now())
ON CONFLICT (tenant_id, name) DO UPDATE
SET project_id = excluded.project_id, url = excluded.url, events = excluded.events, secrets = excluded.secrets,
    options = excluded.options, active = true, note = NULL, failures = 0, paused_until = NULL
RETURNING id

-- webhook_switch: switch an endpoint on or off
UPDATE @webhook_endpoint
SET active = :active/*pg ::boolean*/, note = :note/*pg ::text*/, failures = 0, paused_until = NULL
WHERE tenant_id = :tenant_id AND name = :name
RETURNING id

-- webhook_remove: an endpoint that nobody is told at any more
DELETE FROM @webhook_endpoint WHERE tenant_id = :tenant_id AND name = :name RETURNING id

-- webhook_remove_deliveries: all that it was to be told
DELETE FROM @webhook_delivery WHERE endpoint_id = :endpoint_id

-- webhook_endpoints: every endpoint by name, and how much it has to be told, counted up to a bound
SELECT e.id, e.name, p.name, e.url, e.events, e.secrets, e.options, e.active, e.note, e.failures,
       CASE WHEN e.paused_until > now() THEN e.paused_until END, e.created_at,
       (SELECT count(*) FROM (
           SELECT 1 FROM @webhook_delivery d WHERE d.endpoint_id = e.id AND d.state = 'open' LIMIT :bound
       ) o),
       (SELECT count(*) FROM (
           SELECT 1 FROM @webhook_delivery d WHERE d.endpoint_id = e.id AND d.state = 'dead' LIMIT :bound
       ) x)
FROM @webhook_endpoint e LEFT JOIN @project p ON p.id = e.project_id
WHERE e.tenant_id = :tenant_id ORDER BY e.name

-- webhook_listeners: endpoints that want a type of event of a project
SELECT e.id, e.events, p.id FROM @webhook_endpoint e LEFT JOIN @project p ON p.tenant_id = e.tenant_id AND p.name = :project
WHERE e.tenant_id = :tenant_id AND e.active AND (e.project_id IS NULL OR e.project_id = p.id)

-- webhook_tell: an event for an endpoint, once for each key
INSERT INTO @webhook_delivery (
    id, tenant_id, endpoint_id, project_id, run_id, type, key, subject, state, sending, epoch, attempts, due_at, created_at
)
VALUES (
    :id, :tenant_id, :endpoint_id, :project_id/*pg ::uuid*/, NULL, :type, :key/*pg ::text*/, :subject/*pg ::jsonb*/,
    'open', false, 0, 0, now(), now()
)
ON CONFLICT (endpoint_id, key) WHERE key IS NOT NULL DO NOTHING

-- webhook_due: whether anything is to be sent to anybody
SELECT 1 FROM @webhook_endpoint e
WHERE e.tenant_id = :tenant_id AND e.active AND (e.paused_until IS NULL OR e.paused_until <= now()) AND EXISTS (
    SELECT 1 FROM @webhook_delivery d WHERE d.endpoint_id = e.id AND d.state = 'open' AND d.due_at <= now()
) LIMIT 1

-- webhook_turns: endpoints that have something due, held against everybody else who would take of it
-- Ends of runs read these rows and lock none, so they do not wait here.
SELECT e.id, e.name, e.url, e.secrets, e.options, e.failures FROM @webhook_endpoint e
WHERE e.tenant_id = :tenant_id AND e.active AND (e.paused_until IS NULL OR e.paused_until <= now()) AND EXISTS (
    SELECT 1 FROM @webhook_delivery d WHERE d.endpoint_id = e.id AND d.state = 'open' AND d.due_at <= now()
)
ORDER BY e.id LIMIT :most /*pg FOR NO KEY UPDATE OF e SKIP LOCKED */

-- webhook_in_flight: how many requests an endpoint is being sent
SELECT count(*) FROM @webhook_delivery WHERE endpoint_id = :endpoint_id AND sending AND due_at > now()

-- webhook_take: deliveries of an endpoint that are due, or that somebody has not come back from, held for so long
-- One whose holder comes back at this moment is looked at again once its row is free: hence the second condition.
UPDATE @webhook_delivery SET sending = true, epoch = epoch + 1, attempts = attempts + 1, due_at = later(:lease)
WHERE number IN (
    SELECT number FROM @webhook_delivery
    WHERE endpoint_id = :endpoint_id AND state = 'open' AND due_at <= now() ORDER BY due_at, number LIMIT :most
) AND state = 'open' AND due_at <= now()
RETURNING number, id, type, project_id, run_id, subject, body, epoch, attempts, tries, created_at, now()

-- webhook_names: what a run's project and workflow are called
SELECT (SELECT name FROM @project WHERE id = :project_id), (SELECT name FROM @workflow WHERE id = :workflow_id)

-- webhook_task: which task of which agent asks
SELECT task, agent FROM @agent_run WHERE id = :id

-- webhook_cost: what a run's model calls have cost so far
SELECT sum(cost_nanousd) FROM @model_call WHERE run_id = :run_id

-- webhook_keep_body: what is about to be sent, by the holder
UPDATE @webhook_delivery SET body = :body WHERE number = :number AND epoch = :epoch AND sending

-- webhook_delivered: it has arrived
UPDATE @webhook_delivery SET state = 'delivered', sending = false, tries = :tries/*pg ::jsonb*/, finished_at = now()
WHERE number = :number AND epoch = :epoch AND sending

-- webhook_later: it is sent again in some seconds
UPDATE @webhook_delivery SET sending = false, tries = :tries/*pg ::jsonb*/, due_at = later(:delay)
WHERE number = :number AND epoch = :epoch AND sending

-- webhook_dead: it is not sent any more
UPDATE @webhook_delivery SET state = 'dead', sending = false, tries = :tries/*pg ::jsonb*/, finished_at = now()
WHERE number = :number AND epoch = :epoch AND sending

-- webhook_hold: an endpoint, held against everybody else who would take of it, or change it
SELECT 1 FROM @webhook_endpoint WHERE id = :endpoint_id /*pg FOR NO KEY UPDATE */

-- webhook_well: an endpoint that takes requests again
-- A pause that it has asked for stands: this request was under way by then.
UPDATE @webhook_endpoint SET failures = 0, paused_until = CASE WHEN paused_until > now() THEN paused_until END
WHERE id = :endpoint_id AND url = :url AND (failures > 0 OR paused_until <= now())

-- webhook_ill: an endpoint that has not taken a request, and is left alone for some seconds if it has asked for that
-- Of two that were under way at a time, the longer pause holds.
UPDATE @webhook_endpoint
SET failures = failures + 1, paused_until = CASE
    WHEN :pause > 0 AND (paused_until IS NULL OR paused_until < later(:pause)) THEN later(:pause) ELSE paused_until
END
WHERE id = :endpoint_id AND url = :url

-- webhook_gone: an endpoint that wants nothing any more
UPDATE @webhook_endpoint SET active = false, note = :note WHERE id = :endpoint_id AND url = :url

-- webhook_deliveries: deliveries behind a number, the newest first
SELECT d.id, d.number, e.name, d.type, d.run_id, d.state, d.sending, d.attempts, d.due_at, d.created_at, d.finished_at,
       d.tries, d.body
FROM @webhook_delivery d JOIN @webhook_endpoint e ON e.id = d.endpoint_id
WHERE e.tenant_id = :tenant_id AND d.number < :before
  AND (:endpoint/*pg ::text*/ IS NULL OR e.name = :endpoint/*pg ::text*/)
  AND (:state/*pg ::text*/ IS NULL OR d.state = :state/*pg ::text*/)
ORDER BY d.number DESC LIMIT :most

-- webhook_deliveries_of: the same of one run
SELECT d.id, d.number, e.name, d.type, d.run_id, d.state, d.sending, d.attempts, d.due_at, d.created_at, d.finished_at,
       d.tries, d.body
FROM @webhook_delivery d JOIN @webhook_endpoint e ON e.id = d.endpoint_id
WHERE e.tenant_id = :tenant_id AND d.run_id = :run_id AND d.number < :before
  AND (:endpoint/*pg ::text*/ IS NULL OR e.name = :endpoint/*pg ::text*/)
  AND (:state/*pg ::text*/ IS NULL OR d.state = :state/*pg ::text*/)
ORDER BY d.number DESC LIMIT :most

-- webhook_delivery: one of them
SELECT d.id, d.number, e.name, d.type, d.run_id, d.state, d.sending, d.attempts, d.due_at, d.created_at, d.finished_at,
       d.tries, d.body
FROM @webhook_delivery d JOIN @webhook_endpoint e ON e.id = d.endpoint_id
WHERE e.tenant_id = :tenant_id AND d.id = :id

-- webhook_redeliver: send one that is delivered, dead, or waits, at once; one that is being sent is left alone
UPDATE @webhook_delivery SET state = 'open', attempts = 0, due_at = now(), finished_at = NULL
WHERE id = :id AND NOT (sending AND due_at > now())

-- webhook_redeliver_dead: send again up to so many of an endpoint's dead ones
UPDATE @webhook_delivery SET state = 'open', attempts = 0, due_at = now(), finished_at = NULL
WHERE number IN (
    SELECT number FROM @webhook_delivery WHERE endpoint_id = :endpoint_id AND state = 'dead' ORDER BY number LIMIT :most
)

-- webhook_forget: deliveries that ended long ago
DELETE FROM @webhook_delivery WHERE number IN (
    SELECT number FROM @webhook_delivery WHERE finished_at < ago(:age) ORDER BY finished_at LIMIT :most
)

-- webhook_receive: begin with what has come in; no row where somebody has begun, and may still be at it
INSERT INTO @webhook_receipt (tenant_id, source, message_id, digest, held_until, created_at)
VALUES (:tenant_id, :source, :message_id, :digest, later(:lease), now())
ON CONFLICT (tenant_id, source, message_id) DO UPDATE SET held_until = excluded.held_until
WHERE @webhook_receipt.reply IS NULL AND @webhook_receipt.held_until <= now()
  AND @webhook_receipt.digest = excluded.digest
RETURNING target

-- webhook_receipt: what is known of it
SELECT digest, reply FROM @webhook_receipt WHERE tenant_id = :tenant_id AND source = :source AND message_id = :message_id

-- webhook_aim: what it is about
UPDATE @webhook_receipt SET target = :target
WHERE tenant_id = :tenant_id AND source = :source AND message_id = :message_id

-- webhook_replied: what it was answered, for whoever sends it again
UPDATE @webhook_receipt SET reply = :reply/*pg ::jsonb*/, held_until = NULL
WHERE tenant_id = :tenant_id AND source = :source AND message_id = :message_id

-- webhook_let_go: let the same be begun with again
UPDATE @webhook_receipt SET held_until = now()
WHERE tenant_id = :tenant_id AND source = :source AND message_id = :message_id AND reply IS NULL

-- webhook_not_done: forget what has led to nothing, if it is still the same: another body may come under its id
DELETE FROM @webhook_receipt
WHERE tenant_id = :tenant_id AND source = :source AND message_id = :message_id AND reply IS NULL AND digest = :digest

-- webhook_forget_receipts: what came in long ago
DELETE FROM @webhook_receipt WHERE created_at < ago(:age) AND (tenant_id, source, message_id) IN (
    SELECT tenant_id, source, message_id FROM @webhook_receipt WHERE created_at < ago(:age) ORDER BY created_at LIMIT :most
)

-- webhook_answered: how a question was answered
SELECT run_id, state, answer, answered_by FROM @question WHERE id = :id
