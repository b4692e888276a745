-- run_for_fork: a run that is about to be forked, held in its state
SELECT r.state, r.input, r.user_label, r.variant, b.limit_nanousd, b.mode, b.on_cap
FROM @run r LEFT JOIN @budget b ON b.run_id = r.id AND b.scope = 'run/' || r.id
WHERE r.id = :run_id /*pg FOR SHARE OF r */

-- states_for_fork: how its tasks ended, and behind them its compensations, and whether they began
SELECT position, state, started_at IS NOT NULL, assigned FROM @agent_run
WHERE run_id = :run_id AND parent_id IS NULL ORDER BY position

-- copy_past: give agent runs of a new run the ends that they had in another one; the epoch stays 0, nobody has claimed them
UPDATE @agent_run
SET state = o.state, agent = o.agent, queue = o.queue, output = o.output, error = o.error, usage = o.usage, model = o.model,
    failures = o.failures, crashes = o.crashes, worker = o.worker, dispatch = 0, published_at = NULL,
    queued_at = o.queued_at, started_at = o.started_at, finished_at = o.finished_at
FROM @agent_run o
WHERE @agent_run.run_id = :run_id AND @agent_run.position = ANY(:positions::int[])
  AND o.run_id = :source AND o.position = @agent_run.position

-- copy_inputs: give agent runs of a new run what they were redriven with in another one
UPDATE @agent_run SET input = o.input
FROM @agent_run o
WHERE @agent_run.run_id = :run_id AND @agent_run.position = ANY(:positions::int[])
  AND o.run_id = :source AND o.position = @agent_run.position AND o.input IS NOT NULL
