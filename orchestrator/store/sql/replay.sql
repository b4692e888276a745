-- replay_row: an agent run as it was executed last, and what its run gives it
SELECT a.task, a.position, a.agent, a.epoch, a.failures, a.crashes, r.workflow_id, r.tenant_id, r.input, a.input,
       a.parent_id, a.subwork_id, (SELECT s.options FROM @subwork s WHERE s.id = a.subwork_id), a.state, a.output, a.error, a.model
FROM @agent_run a JOIN @run r ON r.id = a.run_id WHERE a.id = :id
