-- mail_record: send and receive on Postgres, each with the entry that records it; what cannot be done leaves no entry
-- `held`: the claim is current. `written`: the entry is stored, and with it everything else. `refused`: who takes no more
-- messages, and why. `woken`: who was suspended and waits for this. `running`: who looks for messages when it is told to.
-- The sender's row and those of its recipients are locked in one step and in one mode, each group by id: two agents that
-- write to each other would wait for each other otherwise. So numbers are given, and committed, in one order for each
-- recipient, and a recipient that suspends comes before or after this: see `store/arrivals.py`.
WITH given AS MATERIALIZED (
    @@journal_entries
), l AS MATERIALIZED (
    SELECT * FROM jsonb_to_recordset(:letters::jsonb) AS l(
        place int, agent_run_id uuid, scope text, entry int, run_id uuid, tenant_id uuid, id uuid, sender text,
        recipient text, recipient_id uuid, type text, priority int, start int, size int, room int, wants_reply boolean, answers uuid, ttl float8
    )
), t AS MATERIALIZED (
    SELECT * FROM jsonb_to_recordset(:takes::jsonb) AS t(
        agent_run_id uuid, scope text, entry int, run_id uuid, number bigint, size int
    )
), r AS MATERIALIZED (
    SELECT id FROM @run WHERE id = ANY(:run_ids::uuid[]) ORDER BY id FOR KEY SHARE
), locked AS MATERIALIZED (
    SELECT id, state, epoch, listening FROM @agent_run
    WHERE id = ANY(:locked::uuid[]) AND (SELECT count(*) FROM r) >= 0 ORDER BY id FOR NO KEY UPDATE
), held AS MATERIALIZED (
    SELECT id FROM locked
    WHERE state = 'running' AND epoch = (:epochs::int[])[array_position(:ids::uuid[], id)]
), depth AS MATERIALIZED (
    SELECT recipient_id, count(*) AS waiting FROM @agent_message
    WHERE recipient_id = ANY(:recipients::uuid[]) AND state = 'waiting' GROUP BY recipient_id
), refused AS MATERIALIZED (
    SELECT DISTINCT l.agent_run_id, l.scope, l.entry, l.recipient, coalesce(k.state, '') AS state
    FROM l LEFT JOIN locked k ON k.id = l.recipient_id LEFT JOIN depth d ON d.recipient_id = l.recipient_id
    WHERE k.id IS NULL
       OR l.answers IS NULL AND (k.state IN ('succeeded', 'failed', 'cancelled', 'skipped') OR coalesce(d.waiting, 0) + l.room > :most::int)
), there AS MATERIALIZED (
    SELECT j.agent_run_id, j.scope, j.number FROM t
    JOIN @journal j ON j.agent_run_id = t.agent_run_id AND j.scope = t.scope AND j.number = t.entry
    WHERE j.state IN ('done', 'failed')
), free AS MATERIALIZED (
    SELECT t.agent_run_id, t.scope, t.entry, t.run_id, t.number, t.size FROM t
    JOIN @agent_message m ON m.run_id = t.run_id AND m.number = t.number
    WHERE m.recipient_id = t.agent_run_id AND m.state || '' = 'waiting'
      AND t.agent_run_id IN (SELECT id FROM held)
      AND (t.agent_run_id, t.scope, t.entry) NOT IN (SELECT agent_run_id, scope, number FROM there)
    ORDER BY m.run_id, m.number FOR UPDATE OF m
), whole AS MATERIALIZED (
    -- Two branches of an agent may have found the same message at the same moment: the first of them receives it.
    SELECT agent_run_id, scope, entry FROM (
        SELECT *, row_number() OVER (PARTITION BY run_id, number ORDER BY scope, entry) AS turn FROM free
    ) f GROUP BY agent_run_id, scope, entry, size HAVING count(*) = size AND max(turn) = 1
), took AS (
    UPDATE @agent_message m
    SET state = 'taken', taken_scope = f.scope, taken_number = f.entry, ended_at = now()
    FROM free f JOIN whole USING (agent_run_id, scope, entry)
    WHERE m.run_id = f.run_id AND m.number = f.number
    RETURNING f.agent_run_id, f.scope, f.entry
), e AS MATERIALIZED (
    SELECT * FROM given g
    WHERE (g.agent_run_id, g.scope, g.number) NOT IN (SELECT agent_run_id, scope, entry FROM refused)
      AND ((g.agent_run_id, g.scope, g.number) NOT IN (SELECT agent_run_id, scope, entry FROM t)
           OR (g.agent_run_id, g.scope, g.number) IN (SELECT agent_run_id, scope, entry FROM took))
), @@journal_rows, sent AS (
    INSERT INTO @agent_message (
        run_id, id, tenant_id, sender, sender_id, sent_scope, sent_number, recipient, recipient_id, type, priority, body,
        wants_reply, answers, state, reason, created_at, expires_at, ended_at
    )
    SELECT l.run_id, l.id, l.tenant_id, l.sender, l.agent_run_id, l.scope, l.entry, l.recipient, l.recipient_id, l.type, l.priority,
           substring(:bodies::bytea FROM l.start FOR l.size), l.wants_reply, l.answers,
           CASE WHEN late.why IS NULL THEN 'waiting' ELSE 'dead' END, late.why, now(), later(l.ttl),
           CASE WHEN late.why IS NOT NULL THEN now() END
    FROM l
    JOIN written w ON w.agent_run_id = l.agent_run_id AND w.scope = l.scope AND w.number = l.entry
    JOIN locked k ON k.id = l.recipient_id
    CROSS JOIN LATERAL (
        SELECT CASE
            WHEN k.state IN ('succeeded', 'failed', 'cancelled', 'skipped') THEN 'its recipient has ended'
            WHEN l.answers IS NOT NULL AND NOT EXISTS (
                SELECT 1 FROM @agent_message q WHERE q.id = l.answers AND q.wants_reply
            ) THEN 'the request that it answers has timed out'
        END AS why
    ) late
    ORDER BY l.place
    RETURNING recipient_id, sender, type, answers, state
), woken AS (
    UPDATE @agent_run a
    SET state = 'queued', queued_at = now(), published_at = now(), dispatch = dispatch + 1, priority = 1, republished = 0,
        wake_at = NULL, waiting_for = NULL
    WHERE a.id = ANY(:recipients::uuid[]) AND a.id IN (
        SELECT s.recipient_id FROM sent s JOIN locked k ON k.id = s.recipient_id
        WHERE s.state = 'waiting' AND k.state = 'suspended' AND EXISTS (
            SELECT 1 FROM jsonb_array_elements(k.listening -> 'mail') i
            WHERE coalesce(i ->> 'from', s.sender) = s.sender AND coalesce(i ->> 'type', s.type) = s.type
              AND coalesce(i ->> 'answers', '') = coalesce(s.answers::text, '')
        )
    )
    RETURNING a.id, a.agent, a.dispatch, a.priority
)
SELECT 'held', id, NULL::text, NULL::int, NULL::text, NULL::text FROM held
UNION ALL SELECT 'written', agent_run_id, scope, number, NULL, NULL FROM written
UNION ALL SELECT 'refused', agent_run_id, scope, entry, recipient, state FROM refused
UNION ALL SELECT 'there', agent_run_id, scope, number, NULL, NULL FROM there
UNION ALL SELECT 'woken', id, agent, dispatch, NULL, priority::text FROM woken
UNION ALL SELECT 'running', k.id, NULL, NULL, NULL, NULL FROM locked k
    WHERE k.state = 'running' AND k.id IN (SELECT recipient_id FROM sent)

-- mail_look: what waits for an agent run and may be meant, in the order in which it is received
-- What Nightfleet says is first: it is received with whatever is, and so has to be found beside it.
SELECT m.number, m.id, m.sender, m.recipient, m.type, m.priority, m.body, m.wants_reply, m.answers, m.created_at
FROM @agent_message m
WHERE m.recipient_id = :id AND m.state = 'waiting' AND (m.expires_at IS NULL OR m.expires_at > now())
  AND ((m.sender = :runtime/*pg ::text*/ AND m.answers IS NULL)
    OR (:answers/*pg ::uuid*/ IS NULL AND m.answers IS NULL
        AND (:sender/*pg ::text*/ IS NULL OR m.sender = :sender/*pg ::text*/)
        AND (:type/*pg ::text*/ IS NULL OR m.type = :type/*pg ::text*/))
    OR m.answers = :answers/*pg ::uuid*/)
ORDER BY m.sender = :runtime/*pg ::text*/ DESC, m.priority DESC, m.number LIMIT :most OFFSET :offset

-- mail_company: whether another agent run of a run is running
SELECT 1 FROM @agent_run WHERE run_id = :run_id AND state || '' = 'running' AND id <> :id LIMIT 1

-- mail_recipient: who a message goes to, held alone while it is sent
SELECT state, listening FROM @agent_run WHERE id = :id /*pg FOR NO KEY UPDATE */

-- mail_depth: how many messages wait for an agent run
SELECT count(*) FROM @agent_message WHERE recipient_id = :id AND state = 'waiting'

-- mail_room: how many messages wait for an agent run, and how many of those that are sent will not do so for ever
SELECT count(*), count(CASE WHEN sender <> :runtime THEN expires_at END) FROM @agent_message WHERE recipient_id = :id AND state = 'waiting'

-- mail_awaited: whether somebody still waits for the reply to a message
SELECT 1 FROM @agent_message WHERE id = :id AND wants_reply

-- mail_send: a message from outside, as a step of a transaction that holds its recipient
/*pg INSERT INTO @agent_message (
    run_id, id, tenant_id, sender, recipient, recipient_id, type, priority, body, wants_reply, answers, state, reason,
    created_at, expires_at, ended_at
)
VALUES (
    :run_id, :id, :tenant_id, :sender, :recipient, :recipient_id, :type, :priority, :body, :wants_reply, :answers, :state,
    :reason::text, now(), later(:ttl::float8), CASE WHEN :reason::text IS NOT NULL THEN now() END
)
ON CONFLICT (id) DO NOTHING */

-- mail_known: what was sent by an id
SELECT recipient_id, type, body FROM @agent_message WHERE id = :id

-- mail_insert: messages on SQLite, which gives no numbers; one writer at a time does
INSERT INTO @agent_message (
    run_id, number, id, tenant_id, sender, sender_id, sent_scope, sent_number, recipient, recipient_id, type, priority, body, wants_reply, answers, state, reason,
    created_at, expires_at, ended_at
)
SELECT :run_id, (SELECT coalesce(max(number), 0) FROM @agent_message WHERE run_id = :run_id) + l.key + 1, l.value ->> 'id', :tenant_id,
       :sender, :sender_id, :scope, :entry, l.value ->> 'recipient', l.value ->> 'recipient_id', l.value ->> 'type',
       l.value ->> 'priority', substr(:bodies, l.value ->> 'start', l.value ->> 'size'), l.value ->> 'wants_reply',
       l.value ->> 'answers', l.value ->> 'state', l.value ->> 'reason', now(), later(l.value ->> 'ttl'),
       CASE WHEN l.value ->> 'reason' IS NOT NULL THEN now() END
FROM json_each(:letters) l WHERE true ORDER BY l.key
ON CONFLICT (id) DO NOTHING
RETURNING id

-- mail_wait_still: how many of some messages are still there to be received
SELECT count(*) FROM @agent_message
WHERE run_id = :run_id AND number IN (SELECT value FROM json_each(:numbers)) AND recipient_id = :id AND state = 'waiting'

-- mail_take: receive messages, on SQLite, as a step of a transaction that has found them
UPDATE @agent_message SET state = 'taken', taken_scope = :scope, taken_number = :entry, ended_at = now()
WHERE run_id = :run_id AND number IN (SELECT value FROM json_each(:numbers))

-- mail_wake: queue a suspended agent run for a message, and note that it will be published
UPDATE @agent_run
SET state = 'queued', queued_at = now(), published_at = now(), dispatch = dispatch + 1, priority = 1, republished = 0,
    wake_at = NULL, waiting_for = NULL
WHERE id = :id AND state = 'suspended'
RETURNING id, dispatch, agent, priority

-- mail_close: nobody waits for the reply to a message any more; one that was not received need not be
UPDATE @agent_message
SET wants_reply = :no, reason = 'the request has timed out',
    state = CASE WHEN state = 'waiting' THEN 'dead' ELSE state END,
    ended_at = CASE WHEN state = 'waiting' THEN now() ELSE ended_at END
WHERE id = :id

-- mail_after: what waits for an agent run behind a number
SELECT sender, type, answers, number FROM @agent_message
WHERE recipient_id = :id AND state = 'waiting' AND number > :seen AND (expires_at IS NULL OR expires_at > now())

-- mail_take_back: messages of a run whose sending is void, as far as nobody has received them
UPDATE @agent_message SET state = 'dead', reason = 'its sender was set back to before it', ended_at = now()
WHERE run_id = :run_id AND state || '' = 'waiting' AND EXISTS (
    SELECT 1 FROM @journal j
    WHERE j.agent_run_id = sender_id AND j.scope = sent_scope AND j.number = sent_number AND j.state = 'void'
)

-- mail_give_back: messages of a run whose receiving is void wait again, but for what Nightfleet has said of that time
-- What is sent by no agent run is from outside, or Nightfleet's own. They were received in time, so they wait without one.
UPDATE @agent_message SET state = 'waiting', taken_scope = NULL, taken_number = NULL, ended_at = NULL, expires_at = NULL
WHERE run_id = :run_id AND state || '' = 'taken' AND (sender_id IS NOT NULL OR sender <> :runtime) AND EXISTS (
    SELECT 1 FROM @journal j
    WHERE j.agent_run_id = recipient_id AND j.scope = taken_scope AND j.number = taken_number AND j.state = 'void'
)

-- mail_unsay: what Nightfleet has said of a time that is over, and nobody has received
UPDATE @agent_message SET state = 'dead', reason = 'its run was opened again', ended_at = now()
WHERE run_id = :run_id AND state || '' = 'waiting' AND sender = :runtime AND sender_id IS NULL

-- mail_history: the messages of a run, in their order
-- What waits for one that has ended is dead until its run is opened again.
SELECT m.number, m.id, m.sender, m.recipient, m.type, m.priority, m.body, m.wants_reply, m.answers, m.created_at,
       CASE WHEN late.ended THEN 'dead' ELSE m.state END,
       CASE WHEN late.ended THEN 'its recipient has ended' ELSE m.reason END, m.expires_at,
       CASE WHEN late.ended THEN late.finished_at ELSE m.ended_at END
FROM @agent_message m
LEFT JOIN (
    SELECT id, finished_at, state IN ('succeeded', 'failed', 'cancelled', 'skipped') AS ended
    FROM @agent_run WHERE run_id = :run_id
) late ON late.id = m.recipient_id AND late.ended AND m.state || '' = 'waiting'
WHERE m.run_id = :run_id AND m.number > :after ORDER BY m.number LIMIT :most

-- mail_past: messages of a run to some tasks that are no replies, as far as they were sent by what is recorded
-- Who was set back to before a sending has sent anew since, perhaps: its record is younger than the message then.
SELECT m.number, m.id, m.tenant_id, m.sender, m.recipient, m.type, m.priority, m.body, m.wants_reply, m.created_at, m.expires_at
FROM @agent_message m
WHERE m.run_id = :run_id AND m.number > :after AND m.recipient = ANY(:recipients::text[]) AND m.answers IS NULL
  AND m.sender <> :runtime AND NOT EXISTS (
    SELECT 1 FROM @journal j
    WHERE j.agent_run_id = m.sender_id AND j.scope = m.sent_scope AND j.number = m.sent_number
      AND (j.state = 'void' OR j.recorded_at > m.created_at)
)
ORDER BY m.number LIMIT :most

-- mail_told: what watchers of a run have not been told yet; of a run that goes on, what nobody can come before any more
-- Numbers are in the order of commits for one recipient, and not for a run.
SELECT number, id, sender, recipient, type, priority, body, wants_reply, answers, created_at
FROM @agent_message WHERE run_id = :run_id AND number > :after AND (:ended OR created_at < ago(1))
ORDER BY number LIMIT :most

-- mail_expire: messages whose time is over
UPDATE @agent_message SET state = 'dead', reason = 'nobody has received it in time', ended_at = now()
WHERE state = 'waiting' AND expires_at <= now()

-- mail_reject: a message that its recipient cannot read
UPDATE @agent_message SET state = 'dead', reason = :reason, ended_at = now()
WHERE run_id = :run_id AND number = :number AND recipient_id = :id AND state = 'waiting'

-- mail_tenant: whose a run is
SELECT tenant_id FROM @run WHERE id = :run_id

-- mail_late: replies that came when nobody waited for them any more
UPDATE @agent_message SET state = 'dead', reason = 'the request that it answers has timed out', ended_at = now()
WHERE state = 'waiting' AND answers IS NOT NULL
  AND NOT EXISTS (SELECT 1 FROM @agent_message q WHERE q.id = @agent_message.answers AND q.wants_reply)

-- mail_perhaps_stuck: runs in which an agent run waits for what others of it bring, and nobody runs, or one of those cannot help
-- One that waits for the outside is left alone, and those who wait for it come to nothing here; so it is with people.
-- One that waits for room has a time, which brings it nothing while who is to make room waits too, or has not begun.
SELECT DISTINCT w.run_id FROM @agent_run w
WHERE CASE WHEN w.state = 'suspended' THEN w.listening END IS NOT NULL AND w.run_id > :after
  AND (w.wake_at IS NULL OR w.listening -> 'room' IS NOT NULL)
  AND w.listening -> 'people' IS NULL
  AND NOT coalesce(w.listening -> 'mail' @> jsonb_build_array(jsonb_build_object('from', :outside::text)), false)
  AND (NOT EXISTS (SELECT 1 FROM @agent_run o WHERE o.run_id = w.run_id AND o.state || '' IN ('running', 'queued'))
    OR EXISTS (
        SELECT 1 FROM @agent_run o
        WHERE o.run_id = w.run_id
          AND (o.state || '' IN ('succeeded', 'failed', 'cancelled', 'skipped')
            OR o.state || '' = 'suspended' AND o.listening IS NOT NULL AND o.wake_at IS NULL)
          AND (o.task IN (SELECT coalesce(i ->> 'of', i ->> 'from') FROM jsonb_array_elements(w.listening -> 'mail') i)
            OR o.task IN (SELECT i ->> 'namespace' FROM jsonb_array_elements(w.listening -> 'keys') i))
    )
    OR EXISTS (
        SELECT 1 FROM @agent_run o
        WHERE o.run_id = w.run_id AND (o.state || '' = 'blocked' OR o.state || '' = 'suspended' AND o.listening IS NOT NULL)
          AND o.task IN (SELECT i ->> 'of' FROM jsonb_array_elements(w.listening -> 'room') i)
    ))
ORDER BY w.run_id LIMIT :most

-- mail_perhaps_stuck_here: runs in which an agent run waits for what others bring: on SQLite, where they are few
SELECT DISTINCT run_id FROM @agent_run
WHERE state = 'suspended' AND (wake_at IS NULL OR listening -> 'room' IS NOT NULL) AND listening IS NOT NULL AND run_id > :after
ORDER BY run_id LIMIT :most

-- mail_members: the agent runs of a run
SELECT id, task, agent FROM @agent_run WHERE run_id = :run_id ORDER BY position

-- mail_waiters: the agent runs of some runs, with what those that are suspended wait for
SELECT id, task, state, epoch, wake_at, listening, predecessors, gated, CASE WHEN parent_id IS NOT NULL THEN subwork_id END
FROM @agent_run WHERE run_id = ANY(:run_ids::uuid[]) ORDER BY run_id, position

