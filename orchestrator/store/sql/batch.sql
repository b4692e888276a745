-- ended_runs: those of many runs that have ended, in the order in which they did, on Postgres
-- `|| ''` keeps the planner from the index on `state`, which leads to every run that ever ended.
SELECT id, state, error FROM @run
WHERE id = ANY(:ids::uuid[]) AND state || '' IN ('succeeded', 'failed', 'cancelled') ORDER BY finished_at, id

-- ended_runs_listed: the same on SQLite
SELECT id, state, error FROM @run
WHERE id IN (SELECT value FROM json_each(:ids)) AND +state IN ('succeeded', 'failed', 'cancelled') ORDER BY finished_at, id

-- outputs_of: states and outputs of many agent runs, on Postgres
SELECT id, state, output FROM @agent_run WHERE id = ANY(:ids::uuid[])

-- outputs_of_listed: the same on SQLite
SELECT id, state, output FROM @agent_run WHERE id IN (SELECT value FROM json_each(:ids))
