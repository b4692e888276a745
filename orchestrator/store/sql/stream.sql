-- stream_add: keep pieces of answers on Postgres; gives the claims that are current, whose pieces are kept
-- Locks are taken as by `journal_record`, then the run's count, until the commit: a piece that can be read has none before it
-- that cannot yet. A piece that was kept by a try without an answer is there, and stays.
WITH p AS MATERIALIZED (
    SELECT * FROM jsonb_to_recordset(:pieces::jsonb) AS p(
        place int, id uuid, agent_run_id uuid, run_id uuid, tenant_id uuid, epoch int, task text, agent text, slot text,
        start int, restarted boolean, body text
    )
), r AS MATERIALIZED (
    SELECT id FROM @run WHERE id = ANY(:run_ids::uuid[]) ORDER BY id FOR KEY SHARE
), held AS MATERIALIZED (
    SELECT id, epoch FROM @agent_run
    WHERE id = ANY(:ids::uuid[]) AND state || '' = 'running' AND (SELECT count(*) FROM r) >= 0
    ORDER BY id FOR SHARE
), fresh AS MATERIALIZED (
    SELECT p.*, row_number() OVER (PARTITION BY p.run_id ORDER BY p.place) AS nth, count(*) OVER (PARTITION BY p.run_id) AS of_run
    FROM p JOIN held h ON h.id = p.agent_run_id AND h.epoch = p.epoch
), counted AS (
    INSERT INTO @stream AS s (run_id, tenant_id, pieces)
    SELECT run_id, tenant_id, count(*) FROM fresh GROUP BY run_id, tenant_id ORDER BY run_id
    ON CONFLICT (run_id) DO UPDATE SET pieces = s.pieces + excluded.pieces
    RETURNING run_id, pieces
), kept AS (
    INSERT INTO @stream_piece (
        agent_run_id, slot, id, tenant_id, run_id, number, epoch, task, agent, start, restarted, body, created_at
    )
    SELECT f.agent_run_id, f.slot, f.id, f.tenant_id, f.run_id, c.pieces - f.of_run + f.nth, f.epoch, f.task, f.agent,
           f.start, f.restarted, f.body, now()
    FROM fresh f JOIN counted c ON c.run_id = f.run_id
    ON CONFLICT (agent_run_id, slot, id) DO NOTHING
)
SELECT id, epoch FROM held

-- stream_count: take the next number of a run, as a step of a transaction
INSERT INTO @stream AS s (run_id, tenant_id, pieces) VALUES (:run_id, :tenant_id, 1)
ON CONFLICT (run_id) DO UPDATE SET pieces = s.pieces + 1
RETURNING pieces

-- stream_keep: keep a piece, as a step of a transaction
INSERT INTO @stream_piece (
    agent_run_id, slot, id, tenant_id, run_id, number, epoch, task, agent, start, restarted, body, created_at
)
VALUES (
    :agent_run_id, :slot, :id, :tenant_id, :run_id, :number, :epoch, :task, :agent, :start, :restarted, :body, now()
)
ON CONFLICT (agent_run_id, slot, id) DO NOTHING

-- stream_shown: what watchers have of one answer
SELECT start, body, restarted FROM @stream_piece WHERE agent_run_id = :agent_run_id AND slot = :slot ORDER BY number

-- stream_after: pieces of all answers of a run behind a number
SELECT number, agent_run_id, slot, task, agent, start, body, restarted, created_at FROM @stream_piece
WHERE run_id = :run_id AND number > :after ORDER BY number LIMIT :most
