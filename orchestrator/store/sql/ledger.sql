-- reserve: write a call down, and hold money for it in every budget that it counts in, on Postgres; without one a row of NULLs
-- Budgets are locked first, in the order of their ids, then lines of the ledger: everywhere. What a budget's row says once it is
-- locked is newer than the statement's own snapshot, so all is decided by it.
WITH who AS MATERIALIZED (
    SELECT project_id, batch_id, user_label FROM @run WHERE id = :run_id::uuid
), held AS MATERIALIZED (
    SELECT * FROM @budget
    WHERE tenant_id = :tenant_id::uuid AND scope = ANY(ARRAY[
        'tenant/' || :tenant_id::text, 'run/' || :run_id::text, 'agent-run/' || :agent_run_id::text,
        (SELECT 'project/' || project_id FROM who), (SELECT 'batch/' || batch_id FROM who),
        (SELECT 'user/' || user_label FROM who)
    ])
    ORDER BY id FOR UPDATE
), dated AS MATERIALIZED (
    SELECT h.*, CASE WHEN period = 'none' THEN period_from ELSE date_trunc(period, now(), 'UTC') END > period_from AS anew
    FROM held h
), today AS MATERIALIZED (
    SELECT id, scope, period, mode, on_cap, limit_nanousd, warned_at, anew,
           CASE WHEN anew THEN date_trunc(period, now(), 'UTC') ELSE period_from END AS since,
           CASE WHEN anew THEN 0 ELSE settled_nanousd + unknown_nanousd END AS spent,
           CASE WHEN anew THEN 0 ELSE reserved_nanousd END AS reserved,
           -- What such calls have cost so far and a tenth; with so little known, as if two of them had cost all they could.
           CASE WHEN mode = 'strict' THEN :worst::bigint ELSE max(coalesce(least(:worst::bigint, ceil(
               :worst::numeric * 11 * (learned_cost + 2 * :worst::numeric)
               / nullif(10 * (learned_worst + 2 * :worst::numeric), 0)
           )::bigint), 0)) FILTER (WHERE mode = 'expected') OVER () END AS take
    FROM dated
), judged AS MATERIALIZED (
    SELECT t.*, on_cap = 'warn' AND take > 0 AND spent + take > limit_nanousd
                AND (warned_at IS NULL OR warned_at < since) AS warns,
           CASE WHEN on_cap = 'warn' THEN 'fits'
                WHEN :priced::int = 0 THEN 'unpriced'
                WHEN take > 0 AND spent + take > limit_nanousd THEN 'capped'
                WHEN take > 0 AND spent + reserved + take > limit_nanousd THEN 'full'
                ELSE 'fits' END AS verdict
    FROM today t
), known AS MATERIALIZED (
    SELECT state FROM @model_call WHERE id = :id::uuid
), opened AS (
    INSERT INTO @model_call (
        id, tenant_id, project_id, batch_id, user_label, run_id, agent_run_id, epoch, slot, attempt, agent, model,
        credential, state, reserved_nanousd, expected_nanousd, created_at
    )
    SELECT :id::uuid, :tenant_id::uuid, w.project_id, w.batch_id, w.user_label, :run_id::uuid, :agent_run_id::uuid,
           :epoch::int, :slot::text, :attempt::int, :agent::text, :model::text, :credential::text, 'reserved',
           :worst::bigint, j.expected, j.created_at
    FROM (
        SELECT coalesce(max(take) FILTER (WHERE mode = 'expected'), 0) AS expected, greatest(now(), max(since)) AS created_at
        FROM judged HAVING coalesce(bool_and(verdict = 'fits'), true)
    ) j LEFT JOIN who w ON true
    WHERE NOT EXISTS (SELECT FROM known)
    ON CONFLICT (id) DO NOTHING
    RETURNING id
), taken AS (
    UPDATE @budget b
    SET reserved_nanousd = j.reserved + j.take, period_from = j.since,
        settled_nanousd = CASE WHEN j.anew THEN 0 ELSE b.settled_nanousd END,
        unknown_nanousd = CASE WHEN j.anew THEN 0 ELSE b.unknown_nanousd END,
        unknown_calls = CASE WHEN j.anew THEN 0 ELSE b.unknown_calls END,
        warned_at = CASE WHEN j.warns THEN now() ELSE b.warned_at END
    FROM judged j WHERE b.id = j.id AND EXISTS (SELECT FROM opened)
), waits AS (
    INSERT INTO @budget_wait (call_id, budget_id, agent_run_id, epoch, nanousd, since)
    SELECT :id::uuid, j.id, :agent_run_id::uuid, :epoch::int, j.take, now() FROM judged j
    WHERE j.verdict IN ('capped', 'full') AND NOT EXISTS (SELECT FROM known)
      AND NOT EXISTS (SELECT FROM judged WHERE verdict = 'unpriced' OR (verdict = 'capped' AND on_cap = 'fail'))
      AND EXISTS (SELECT FROM @agent_run WHERE id = :agent_run_id::uuid)
    ORDER BY j.verdict, j.on_cap <> 'fail', j.id LIMIT 1
    ON CONFLICT (call_id) DO UPDATE SET budget_id = excluded.budget_id, nanousd = excluded.nanousd
), waits_no_more AS (
    DELETE FROM @budget_wait WHERE call_id = :id::uuid AND EXISTS (SELECT FROM opened)
)
SELECT j.id, j.scope, j.period, j.on_cap, j.limit_nanousd, j.spent, j.take, j.verdict, j.warns, now(),
       (SELECT state FROM known), (SELECT p.name FROM @project p, who w WHERE p.id = w.project_id)
FROM (SELECT 1) one LEFT JOIN judged j ON true ORDER BY j.id

-- conclude: settle, release or give up a call, in the ledger and in every budget that holds something for it, on Postgres
-- A line that there is not yet is written by this: whose answer was there already was not reserved. One that is settled stays.
WITH known AS MATERIALIZED (
    SELECT project_id, batch_id, user_label FROM @model_call WHERE id = :id::uuid
), who AS MATERIALIZED (
    SELECT * FROM known
    UNION ALL
    SELECT project_id, batch_id, user_label FROM @run WHERE id = :run_id::uuid AND NOT EXISTS (SELECT FROM known)
), held AS MATERIALIZED (
    SELECT id, mode, period, period_from FROM @budget
    WHERE tenant_id = :tenant_id::uuid AND scope = ANY(ARRAY[
        'tenant/' || :tenant_id::text, 'run/' || :run_id::text, 'agent-run/' || :agent_run_id::text,
        (SELECT 'project/' || project_id FROM who), (SELECT 'batch/' || batch_id FROM who),
        (SELECT 'user/' || user_label FROM who)
    ])
    ORDER BY id FOR UPDATE
), line AS MATERIALIZED (
    SELECT state, reserved_nanousd, expected_nanousd, created_at FROM @model_call
    WHERE id = :id::uuid AND (SELECT count(*) FROM held) >= 0 FOR UPDATE
), dated AS MATERIALIZED (
    SELECT h.*, CASE WHEN period = 'none' THEN period_from ELSE date_trunc(period, now(), 'UTC') END > period_from AS anew
    FROM held h
), changed AS MATERIALIZED (
    SELECT d.id, d.anew, CASE WHEN d.anew THEN date_trunc(d.period, now(), 'UTC') ELSE d.period_from END AS since,
           l.state AS was, l.reserved_nanousd AS worst, l.created_at,
           coalesce(CASE WHEN d.mode = 'strict' THEN l.reserved_nanousd ELSE l.expected_nanousd END, 0) AS take
    FROM dated d LEFT JOIN line l ON true
), written AS (
    INSERT INTO @model_call AS m (
        id, tenant_id, project_id, batch_id, user_label, run_id, agent_run_id, epoch, slot, attempt, agent, model,
        credential, state, cost_nanousd, input_tokens, cached_input_tokens, cache_write_input_tokens, output_tokens,
        reasoning_tokens, price, request_id, provenance, created_at, settled_at
    )
    SELECT :id::uuid, :tenant_id::uuid, w.project_id, w.batch_id, w.user_label, :run_id::uuid, :agent_run_id::uuid,
           :epoch::int, :slot::text, :attempt::int, :agent::text, :model::text, :credential::text, :state::text,
           :cost::bigint, :input_tokens::int, :cached_input_tokens::int, :cache_write_input_tokens::int,
           :output_tokens::int, :reasoning_tokens::int, :price::text, :request_id::text, :provenance::text,
           greatest(now(), (SELECT max(since) FROM changed)), now()
    FROM (SELECT 1) one LEFT JOIN who w ON true
    WHERE :state::text <> 'released' OR EXISTS (SELECT FROM line)
    ON CONFLICT (id) DO UPDATE
    SET state = excluded.state, cost_nanousd = excluded.cost_nanousd, input_tokens = excluded.input_tokens,
        cached_input_tokens = excluded.cached_input_tokens, output_tokens = excluded.output_tokens,
        cache_write_input_tokens = excluded.cache_write_input_tokens, reasoning_tokens = excluded.reasoning_tokens,
        price = excluded.price, request_id = excluded.request_id, provenance = excluded.provenance, settled_at = now(),
        model = excluded.model, credential = coalesce(excluded.credential, m.credential)
    WHERE m.state = 'reserved' OR (m.state = 'unknown' AND excluded.state <> 'unknown')
    RETURNING id
), counted AS (
    -- A call of an earlier period is none of this one's.
    SELECT c.*, CASE WHEN was IS NULL OR created_at >= since THEN 1 ELSE 0 END AS counts,
           CASE WHEN was = 'reserved' AND :state::text = 'settled' AND :provenance::text = 'provider' THEN 1 ELSE 0 END
               AS teaches
    FROM changed c WHERE EXISTS (SELECT FROM written)
), moved AS (
    UPDATE @budget b
    SET period_from = c.since,
        settled_nanousd = CASE WHEN c.anew THEN 0 ELSE b.settled_nanousd END
            + c.counts * CASE WHEN :state::text = 'settled' THEN coalesce(:cost::bigint, 0) ELSE 0 END,
        reserved_nanousd = CASE WHEN c.anew THEN 0 ELSE b.reserved_nanousd END
            - c.counts * CASE WHEN c.was = 'reserved' THEN c.take ELSE 0 END,
        unknown_nanousd = CASE WHEN c.anew THEN 0 ELSE b.unknown_nanousd END
            + c.counts * c.take * ((:state::text = 'unknown')::int - (coalesce(c.was, '') = 'unknown')::int),
        unknown_calls = CASE WHEN c.anew THEN 0 ELSE b.unknown_calls END
            + c.counts * ((:state::text = 'unknown')::int - (coalesce(c.was, '') = 'unknown')::int),
        learned_cost = b.learned_cost + c.teaches * (coalesce(:cost::bigint, 0) - b.learned_cost / 64),
        learned_worst = b.learned_worst + c.teaches * (coalesce(c.worst, 0) - b.learned_worst / 64)
    FROM counted c WHERE b.id = c.id
)
SELECT count(*) FROM written

-- who_pays: what decides which budgets a call counts in, on SQLite
SELECT project_id, batch_id, user_label FROM @model_call WHERE id = :id
UNION ALL
SELECT project_id, batch_id, user_label FROM @run WHERE id = :run_id LIMIT 1

-- budgets_of_call: the budgets of some scopes, and the beginning of the periods that it is in, on SQLite
SELECT b.id, b.scope, b.period, b.mode, b.on_cap, b.limit_nanousd, b.settled_nanousd, b.reserved_nanousd, b.unknown_nanousd,
       b.unknown_calls, b.learned_cost, b.learned_worst, b.period_from, b.warned_at,
       strftime(CASE b.period WHEN 'month' THEN '%Y-%m-01' ELSE '%Y-%m-%d' END || ' 00:00:00.000000', 'now'), now(), p.name
FROM @budget b LEFT JOIN @project p ON b.scope = 'project/' || p.id
WHERE b.tenant_id = :tenant_id AND b.scope = ANY(:scopes::text[]) ORDER BY b.id

-- change_budget: the amounts of a budget as they are now, as a step of a transaction that holds it
UPDATE @budget
SET settled_nanousd = :settled, reserved_nanousd = :reserved, unknown_nanousd = :unknown, unknown_calls = :unknown_calls,
    learned_cost = :learned_cost, learned_worst = :learned_worst, period_from = :period_from, warned_at = :warned_at
WHERE id = :id

-- line_of_call: what the ledger says of a call
SELECT state, reserved_nanousd, expected_nanousd, created_at FROM @model_call WHERE id = :id

-- open_line: a call that is about to be made, as a step of a transaction
INSERT INTO @model_call (
    id, tenant_id, project_id, batch_id, user_label, run_id, agent_run_id, epoch, slot, attempt, agent, model, credential,
    state, reserved_nanousd, expected_nanousd, created_at
)
VALUES (
    :id, :tenant_id, :project_id, :batch_id, :user_label, :run_id, :agent_run_id, :epoch, :slot, :attempt, :agent, :model,
    :credential, 'reserved', :worst, :expected, now()
)

-- write_line: what came of a call, as a step of a transaction
INSERT INTO @model_call (
    id, tenant_id, project_id, batch_id, user_label, run_id, agent_run_id, epoch, slot, attempt, agent, model, credential,
    state, cost_nanousd, input_tokens, cached_input_tokens, cache_write_input_tokens, output_tokens, reasoning_tokens,
    price, request_id, provenance, created_at, settled_at
)
VALUES (
    :id, :tenant_id, :project_id, :batch_id, :user_label, :run_id, :agent_run_id, :epoch, :slot, :attempt, :agent, :model,
    :credential, :state, :cost, :input_tokens, :cached_input_tokens, :cache_write_input_tokens, :output_tokens,
    :reasoning_tokens, :price, :request_id, :provenance, now(), now()
)
ON CONFLICT (id) DO UPDATE
SET state = excluded.state, cost_nanousd = excluded.cost_nanousd, input_tokens = excluded.input_tokens,
    cached_input_tokens = excluded.cached_input_tokens, output_tokens = excluded.output_tokens,
    cache_write_input_tokens = excluded.cache_write_input_tokens, reasoning_tokens = excluded.reasoning_tokens,
    price = excluded.price, request_id = excluded.request_id, provenance = excluded.provenance, settled_at = now(),
    model = excluded.model, credential = coalesce(excluded.credential, credential)

-- wait_for_budget: a call that waits for room, as a step of a transaction
INSERT INTO @budget_wait (call_id, budget_id, agent_run_id, epoch, nanousd, since)
SELECT :id, :budget_id, a.id, :epoch, :nanousd, now() FROM @agent_run a WHERE a.id = :agent_run_id
ON CONFLICT (call_id) DO UPDATE SET budget_id = excluded.budget_id, nanousd = excluded.nanousd

-- waits_no_more: a call that has found room
DELETE FROM @budget_wait WHERE call_id = :id

-- lost_calls: calls in flight whose claim is not current any more: nobody may be left to say what came of them
-- `|| ''` keeps the planner from indexes on `state`, which lead to every running agent run.
SELECT m.id, m.tenant_id, m.run_id, m.agent_run_id, m.epoch, m.slot, m.attempt, m.agent, m.model, m.credential
FROM @model_call m
WHERE m.state = 'reserved' AND NOT EXISTS (
    SELECT 1 FROM @agent_run a WHERE a.id = m.agent_run_id AND a.epoch = m.epoch AND a.state || '' = 'running'
)
ORDER BY m.id LIMIT :most

-- anybody_waits: the database's time, if some call waits for room in a budget
SELECT now() FROM @budget_wait LIMIT 1

-- end_waits_of_the_gone: calls whose claim is not current any more; the next claim asks, and waits, for itself
-- They wake nobody: that would leave the place of the current claim behind, which would then be the next to wake it in vain.
DELETE FROM @budget_wait WHERE call_id IN (
    SELECT w.call_id FROM @budget_wait w WHERE NOT EXISTS (
        SELECT 1 FROM @agent_run a
        WHERE a.id = w.agent_run_id AND a.epoch = w.epoch AND a.state || '' IN ('running', 'suspended')
    )
)

-- budget_waits_due: calls whose budget has room for them and for all that have waited longer; of some runs only, if given
-- A budget of an earlier day or month than this has all of its room again. One that fails wakes those whose waiting is in vain.
-- Who is running and has its mark is woken already, and counts no more: it may run for long before it asks. Nor does a call
-- for which there is no room even after all that is in flight has ended: it would stop everybody behind it.
-- Of some runs only those count: an embedded process wakes its own, and whoever has to wake the others may be gone.
SELECT call_id, agent_run_id FROM (
    SELECT w.call_id, w.agent_run_id, w.since, w.nanousd, b.on_cap, b.left_nanousd, b.reserved,
           sum(CASE WHEN w.nanousd <= b.left_nanousd THEN w.nanousd ELSE 0 END)
               OVER (PARTITION BY w.budget_id ORDER BY w.since, w.call_id) AS upto
    FROM @budget_wait w JOIN @agent_run a ON a.id = w.agent_run_id
    LEFT JOIN (
        SELECT id, on_cap, limit_nanousd - CASE WHEN anew THEN 0 ELSE settled_nanousd + unknown_nanousd END AS left_nanousd,
               CASE WHEN anew THEN 0 ELSE reserved_nanousd END AS reserved
        FROM (
            SELECT *, (period = 'day' AND period_from < :day) OR (period = 'month' AND period_from < :month) AS anew
            FROM @budget
        ) dated
    ) b ON b.id = w.budget_id
    WHERE (a.wake_at IS NULL OR a.state || '' <> 'running')
      AND (:runs/*pg ::uuid[]*/ IS NULL OR a.run_id = ANY(:runs::uuid[]))
) w
WHERE on_cap IS NULL OR on_cap = 'warn' OR (nanousd <= left_nanousd AND upto <= left_nanousd - reserved)
   OR (on_cap = 'fail' AND nanousd > left_nanousd)
ORDER BY since, call_id LIMIT :most

-- wake_for_budget: queue those of some agent runs that are suspended, marked as published by the caller
-- Of one that runs it is a mark on the row: it will not suspend without having asked again. An event that it has taken up
-- itself takes the mark away: then its place in the line, which stays, wakes it.
UPDATE @agent_run
SET queued_at = CASE WHEN state = 'suspended' THEN now() ELSE queued_at END,
    published_at = CASE WHEN state = 'suspended' THEN now() ELSE published_at END,
    dispatch = dispatch + CASE WHEN state = 'suspended' THEN 1 ELSE 0 END,
    priority = CASE WHEN state = 'suspended' THEN 1 ELSE priority END,
    republished = CASE WHEN state = 'suspended' THEN 0 ELSE republished END,
    wake_at = CASE WHEN state = 'suspended' THEN NULL ELSE now() END,
    waiting_for = CASE WHEN state = 'suspended' THEN NULL ELSE waiting_for END,
    state = CASE WHEN state = 'suspended' THEN 'queued' ELSE state END
WHERE id IN (
    SELECT id FROM @agent_run WHERE id = ANY(:ids::uuid[]) AND state || '' IN ('running', 'suspended')
    ORDER BY id /*pg FOR UPDATE */
)
RETURNING id, run_id, agent, dispatch, priority, state

-- end_budget_waits: calls whose agent run was queued: its next claim asks for itself
DELETE FROM @budget_wait WHERE call_id = ANY(:ids::uuid[])

-- cap_agent_run: the budget of one agent run, with what it has spent before; one that there is stays as it is
INSERT INTO @budget (
    id, tenant_id, scope, run_id, period, mode, on_cap, limit_nanousd, settled_nanousd, reserved_nanousd, unknown_nanousd,
    unknown_calls, period_from, created_at
)
SELECT :id/*pg ::uuid*/, :tenant_id/*pg ::uuid*/, :scope/*pg ::text*/, r.id, 'none', 'strict', 'fail', :limit/*pg ::bigint*/,
       coalesce((SELECT sum(cost_nanousd) FROM @model_call
                 WHERE run_id = r.id AND agent_run_id = :agent_run_id AND state = 'settled'), 0),
       coalesce((SELECT sum(reserved_nanousd) FROM @model_call
                 WHERE run_id = r.id AND agent_run_id = :agent_run_id AND state = 'reserved'), 0),
       coalesce((SELECT sum(reserved_nanousd) FROM @model_call
                 WHERE run_id = r.id AND agent_run_id = :agent_run_id AND state = 'unknown'), 0),
       (SELECT count(*) FROM @model_call WHERE run_id = r.id AND agent_run_id = :agent_run_id AND state = 'unknown'),
       '1970-01-01 00:00:00.000000', now()
FROM @run r
WHERE r.id = :run_id AND NOT EXISTS (
    SELECT 1 FROM @budget WHERE tenant_id = :tenant_id AND scope = :scope AND period = 'none'
)
ON CONFLICT (tenant_id, scope, period) DO NOTHING

-- delete_bills: lines of the ledger that are older than some time, the oldest first
DELETE FROM @model_call WHERE id IN (
    SELECT id FROM @model_call WHERE created_at < ago(:age) AND state || '' <> 'reserved' ORDER BY created_at LIMIT :most
)
