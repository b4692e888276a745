-- journal_record: store effects on Postgres; `held` for each claim that is current, `written` for each entry that is stored
-- Locks are taken in one order everywhere: run (for the foreign key of what it keeps), agent run, then rows by key. The agent
-- run is locked by the statement itself: checked before it, a takeover in between would let a zombie's row in.
WITH e AS MATERIALIZED (
    @@journal_entries
), r AS MATERIALIZED (
    SELECT id FROM @run WHERE id = ANY(:run_ids::uuid[]) ORDER BY id FOR KEY SHARE
), held AS MATERIALIZED (
    SELECT id FROM @agent_run
    WHERE id = ANY(:ids::uuid[]) AND state || '' = 'running'
      AND epoch = (:epochs::int[])[array_position(:ids::uuid[], id)] AND (SELECT count(*) FROM r) >= 0
    ORDER BY id FOR SHARE
), @@journal_rows
SELECT 'held', id, NULL::text, NULL::int FROM held
UNION ALL SELECT 'written', agent_run_id, scope, number FROM written

-- journal_entries: the entries that a statement stores, as a part of it
SELECT * FROM jsonb_to_recordset(:entries::jsonb) AS e(
    agent_run_id uuid, run_id uuid, tenant_id uuid, task text, scope text, number int, kind text, fingerprint text,
    state text, request text, start int, size int, error jsonb, usage jsonb, model text, digest text, conversation text,
    epoch int, milliseconds int, event_id uuid, message text, data jsonb
)

-- journal_rows: storing the entries `e` of claims that are `held`, as a part of a statement
stored AS (
    INSERT INTO @content (run_id, hash, tenant_id, parent, body)
    SELECT c.run_id, c.hash, c.tenant_id, c.parent, substring(:bodies::bytea FROM c.start FOR c.size)
    FROM jsonb_to_recordset(:contents::jsonb) AS c(
        agent_run_id uuid, run_id uuid, tenant_id uuid, hash text, parent text, start int, size int
    )
    WHERE c.agent_run_id IN (SELECT id FROM held)
    ORDER BY c.run_id, c.hash
    ON CONFLICT DO NOTHING
), written AS (
    INSERT INTO @journal AS j (
        agent_run_id, scope, number, tenant_id, kind, fingerprint, state, request, outcome, error, usage, model, digest,
        conversation, epoch, milliseconds, recorded_at
    )
    SELECT e.agent_run_id, e.scope, e.number, e.tenant_id, e.kind, e.fingerprint, e.state, e.request,
           substring(:bodies::bytea FROM e.start FOR e.size), e.error, e.usage, e.model, e.digest, e.conversation, e.epoch,
           e.milliseconds, now()
    FROM e WHERE e.agent_run_id IN (SELECT id FROM held)
    ORDER BY e.agent_run_id, e.scope, e.number
    ON CONFLICT (agent_run_id, scope, number) DO UPDATE
    SET kind = excluded.kind, fingerprint = excluded.fingerprint, state = excluded.state, request = excluded.request,
        outcome = excluded.outcome, error = excluded.error, usage = excluded.usage, model = excluded.model,
        digest = excluded.digest, conversation = excluded.conversation, epoch = excluded.epoch,
        milliseconds = excluded.milliseconds, recorded_at = excluded.recorded_at
    WHERE j.state IN ('begun', 'void')
    RETURNING j.agent_run_id, j.scope, j.number
), told AS (
    INSERT INTO @run_event (id, tenant_id, run_id, task, message, data, created_at)
    SELECT e.event_id, e.tenant_id, e.run_id, e.task, e.message, e.data, now()
    FROM e JOIN written w ON w.agent_run_id = e.agent_run_id AND w.scope = e.scope AND w.number = e.number
    WHERE e.event_id IS NOT NULL ORDER BY e.event_id
)

-- journal_content: store what stands apart, once, as a step of a transaction
INSERT INTO @content (run_id, hash, tenant_id, parent, body) VALUES (:run_id, :hash, :tenant_id, :parent, :body)
ON CONFLICT DO NOTHING

-- journal_write: store an effect, as a step of a transaction
INSERT INTO @journal AS j (
    agent_run_id, scope, number, tenant_id, kind, fingerprint, state, request, outcome, error, usage, model, digest,
    conversation, epoch, milliseconds, recorded_at
)
VALUES (
    :agent_run_id, :scope, :number, :tenant_id, :kind, :fingerprint, :state, :request, :outcome, :error, :usage, :model,
    :digest, :conversation, :epoch, :milliseconds, now()
)
ON CONFLICT (agent_run_id, scope, number) DO UPDATE
SET kind = excluded.kind, fingerprint = excluded.fingerprint, state = excluded.state, request = excluded.request,
    outcome = excluded.outcome, error = excluded.error, usage = excluded.usage, model = excluded.model,
    digest = excluded.digest, conversation = excluded.conversation, epoch = excluded.epoch,
    milliseconds = excluded.milliseconds, recorded_at = excluded.recorded_at
WHERE j.state IN ('begun', 'void')

-- journal_hold: keep a claim current until the transaction ends; no row when it is not
SELECT id FROM @agent_run WHERE id = :id AND epoch = :epoch AND state = 'running' /*pg FOR SHARE */

-- journal_void_slot: let what is recorded in one place not be given back any more
UPDATE @journal SET state = 'void' WHERE agent_run_id = :id AND scope = :scope AND number = :number

-- journal_void_all: let nothing that an agent run has recorded be given back any more
UPDATE @journal SET state = 'void' WHERE agent_run_id = :id AND state <> 'void'

-- journal_void_begun: let an agent run repeat what may have happened
UPDATE @journal SET state = 'void' WHERE agent_run_id = :id AND state = 'begun'

-- journal_void_open: let nothing be given back any more that was recorded by what has not succeeded of a run
UPDATE @journal SET state = 'void'
WHERE state <> 'void' AND agent_run_id IN (SELECT id FROM @agent_run WHERE run_id = :run_id AND state <> 'succeeded')

-- journal_void_uncertain: let a run repeat what may happen at most once and may have happened; waits have begun too, and go on
-- Of a question about such a step the answer is known by this.
UPDATE @journal SET state = 'void'
WHERE state = 'begun' AND (kind IN ('step', 'tool') OR replace(scope, '.-1', '') <> scope)
  AND agent_run_id IN (SELECT id FROM @agent_run WHERE run_id = :run_id)

-- journal_row: what stands in one place
SELECT scope, number, kind, fingerprint, state, request, outcome, error, usage, model, digest, conversation, epoch,
       milliseconds, recorded_at
FROM @journal WHERE agent_run_id = :id AND scope = :scope AND number = :number

-- journal_page: what an agent run has recorded behind some place, by scope and number, as many rows and bytes as are wanted
SELECT scope, number, kind, fingerprint, state, request, outcome, error, usage, model, digest, conversation, epoch,
       milliseconds, recorded_at
FROM (
    SELECT p.*, coalesce(sum(length(outcome)) OVER (
        ORDER BY scope, number ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    ), 0) AS earlier
    FROM (
        SELECT * FROM @journal
        WHERE agent_run_id = :id AND (scope, number) > (:scope, :number) AND epoch < :epoch
          AND (state <> 'void' OR :voided = 1)
        ORDER BY scope, number LIMIT :most
    ) p
) q
WHERE earlier < :most_bytes ORDER BY scope, number

-- journal_window: the same within one scope, from a number on
SELECT scope, number, kind, fingerprint, state, request, outcome, error, usage, model, digest, conversation, epoch,
       milliseconds, recorded_at
FROM (
    SELECT p.*, coalesce(sum(length(outcome)) OVER (
        ORDER BY number ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    ), 0) AS earlier
    FROM (
        SELECT * FROM @journal
        WHERE agent_run_id = :id AND scope = :scope AND number >= :number AND epoch < :epoch AND state <> 'void'
        ORDER BY number LIMIT :most
    ) p
) q
WHERE earlier < :most_bytes ORDER BY number

-- journal_texts: what stands apart in a run, of some hashes
SELECT hash, body FROM @content WHERE run_id = :run_id AND hash = ANY(:hashes::text[])

-- journal_conversation: a message and all before it, first to last; a null body for one that is gone
-- Sub-selects, not a join: a join would be planned as a hash join while the table is small, and read the run's content for
-- each message later.
WITH RECURSIVE m(hash, depth) AS (
    SELECT :head/*pg ::text*/, 0
    UNION ALL
    SELECT (SELECT c.parent FROM @content c WHERE c.run_id = :run_id AND c.hash = m.hash), m.depth + 1
    FROM m WHERE m.hash IS NOT NULL
)
SELECT (SELECT c.body FROM @content c WHERE c.run_id = :run_id AND c.hash = m.hash)
FROM m WHERE m.hash IS NOT NULL ORDER BY m.depth DESC
