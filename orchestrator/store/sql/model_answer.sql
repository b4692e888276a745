-- look_for_answer: find the answer to a question, or who asks it, or be the one who asks, on Postgres
-- No row: somebody else has come first in this very moment. What stands void in the journal was found wanting by the agent
-- that asks: only a newer answer will do.
WITH refused AS MATERIALIZED (
    SELECT recorded_at FROM @journal
    WHERE agent_run_id = :agent_run_id::uuid AND scope = :scope AND number = :number::int AND state = 'void'
), known AS MATERIALIZED (
    SELECT m.body, m.agent_run_id, m.epoch, m.asked_at, m.expires_at, CASE
        WHEN m.expires_at <= now() THEN 'free'
        WHEN m.state = 'answered' THEN CASE
            WHEN m.answered_at <= (SELECT recorded_at FROM refused) THEN 'free'
            WHEN m.agent_run_id <> :agent_run_id::uuid THEN 'shared'
            WHEN m.slot = :slot THEN 'own'
            ELSE 'free' END
        WHEN m.agent_run_id = :agent_run_id::uuid THEN 'free'
        ELSE coalesce((
            SELECT CASE WHEN a.state || '' IN ('queued', 'suspended') THEN 'waits'
                        WHEN a.state || '' = 'running' AND w.beat_at > ago(:silence) THEN 'held' END
            FROM @agent_run a LEFT JOIN @worker w ON w.id = a.worker_id WHERE a.id = m.agent_run_id
        ), 'free') END AS verdict
    FROM @model_answer m WHERE m.tenant_id = :tenant_id::uuid AND m.key = :key
), taken AS (
    INSERT INTO @model_answer AS m (tenant_id, key, state, agent_run_id, slot, epoch, asked_at, expires_at)
    SELECT :tenant_id::uuid, :key::text, 'asking', a.id, :slot::text, :epoch::int, now(), later(:lease)
    FROM @agent_run a
    WHERE a.id = :agent_run_id::uuid AND NOT EXISTS (SELECT FROM known WHERE verdict <> 'free')
    ON CONFLICT (tenant_id, key) DO UPDATE
    SET asked_at = CASE WHEN m.state = 'asking' AND m.agent_run_id = excluded.agent_run_id AND m.slot = excluded.slot
                        THEN m.asked_at ELSE excluded.asked_at END,
        state = excluded.state, agent_run_id = excluded.agent_run_id, slot = excluded.slot, epoch = excluded.epoch,
        body = NULL, answered_at = NULL, expires_at = excluded.expires_at
    -- As it was when it was found to be free.
    WHERE (m.agent_run_id, m.epoch, m.expires_at) = (SELECT agent_run_id, epoch, expires_at FROM known)
    RETURNING asked_at
), told AS (
    INSERT INTO @model_call (
        id, tenant_id, project_id, batch_id, user_label, run_id, agent_run_id, epoch, slot, attempt, agent, model, state,
        cost_nanousd, provenance, created_at, settled_at
    )
    SELECT :id::uuid, :tenant_id::uuid, r.project_id, r.batch_id, r.user_label, :run_id::uuid, :agent_run_id::uuid,
           :epoch::int, :slot::text, :attempt::int, :agent::text, :model::text, 'settled', 0, :provenance::text, now(), now()
    FROM known LEFT JOIN @run r ON r.id = :run_id::uuid WHERE verdict = 'shared'
    ON CONFLICT (id) DO NOTHING
)
SELECT 'taken', NULL::bytea, asked_at, now() FROM taken
UNION ALL SELECT verdict, body, asked_at, now() FROM known WHERE verdict <> 'free'

-- known_answer: the answer to a question, or who asks it, on SQLite; see `look_for_answer`
SELECT CASE
    WHEN m.expires_at <= now() THEN 'free'
    WHEN m.state = 'answered' THEN CASE
        WHEN m.answered_at <= (
            SELECT recorded_at FROM @journal
            WHERE agent_run_id = :agent_run_id AND scope = :scope AND number = :number AND state = 'void'
        ) THEN 'free'
        WHEN m.agent_run_id <> :agent_run_id THEN 'shared'
        WHEN m.slot = :slot THEN 'own'
        ELSE 'free' END
    WHEN m.agent_run_id = :agent_run_id THEN 'free'
    ELSE coalesce((
        SELECT CASE WHEN a.state IN ('queued', 'suspended') THEN 'waits'
                    WHEN a.state = 'running' AND w.beat_at > ago(:silence) THEN 'held' END
        FROM @agent_run a LEFT JOIN @worker w ON w.id = a.worker_id WHERE a.id = m.agent_run_id
    ), 'free') END, m.body, m.asked_at, now()
FROM @model_answer m WHERE m.tenant_id = :tenant_id AND m.key = :key

-- take_question: be the one who asks, as a step of a transaction that has found nobody else
INSERT INTO @model_answer AS m (tenant_id, key, state, agent_run_id, slot, epoch, asked_at, expires_at)
SELECT :tenant_id, :key, 'asking', a.id, :slot, :epoch, now(), later(:lease) FROM @agent_run a WHERE a.id = :agent_run_id
ON CONFLICT (tenant_id, key) DO UPDATE
SET asked_at = CASE WHEN m.state = 'asking' AND m.agent_run_id = excluded.agent_run_id AND m.slot = excluded.slot
                    THEN m.asked_at ELSE excluded.asked_at END,
    state = excluded.state, agent_run_id = excluded.agent_run_id, slot = excluded.slot, epoch = excluded.epoch,
    body = NULL, answered_at = NULL, expires_at = excluded.expires_at

-- keep_answer: the answer for everybody who asks the same, if the question is still this agent run's
UPDATE @model_answer SET state = 'answered', body = :body, answered_at = now(), expires_at = later(:kept)
WHERE tenant_id = :tenant_id AND key = :key AND agent_run_id = :agent_run_id AND state = 'asking'

-- renew_questions: some questions are still being asked, each by who has it
UPDATE @model_answer SET expires_at = later(:lease)
WHERE tenant_id = ANY(:tenants::uuid[]) AND key = ANY(:keys::text[]) AND state = 'asking'
  AND key || ' ' || agent_run_id || ' ' || epoch = ANY(:askers::text[])

-- leave_question: let somebody else ask, if this claim is the one that does
DELETE FROM @model_answer
WHERE tenant_id = :tenant_id AND key = :key AND agent_run_id = :agent_run_id AND epoch = :epoch AND state = 'asking'

-- delete_stale_answers: answers and questions whose time is over, the oldest first
DELETE FROM @model_answer WHERE (tenant_id, key) IN (
    SELECT tenant_id, key FROM @model_answer WHERE expires_at <= now() ORDER BY expires_at LIMIT :most
    /*pg FOR UPDATE SKIP LOCKED */
)
