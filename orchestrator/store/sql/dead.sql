-- dead_of_runs: agent runs that failed, of some runs
SELECT a.id, a.run_id, a.task, a.agent, a.failures, a.crashes, a.worker, a.error, a.started_at, a.finished_at
FROM @agent_run a WHERE a.run_id = ANY(:ids::uuid[]) AND a.state || '' = 'failed' ORDER BY a.run_id, a.position

-- dead_details: how an agent run stands, what it was redriven with, and how many of its effects are recorded
SELECT a.state, a.run_id, a.input, (
    SELECT count(*) FROM @journal j WHERE j.agent_run_id = a.id AND j.state IN ('done', 'failed')
) FROM @agent_run a WHERE a.id = :id

-- redrive_row: give a failed agent run another input
UPDATE @agent_run SET input = :input/*pg ::jsonb*/ WHERE id = :id AND state = 'failed'

-- redrive_journal: what it has done with the input before is not what it would do with the new one
UPDATE @journal SET state = 'void' WHERE agent_run_id = :id AND state <> 'void'
