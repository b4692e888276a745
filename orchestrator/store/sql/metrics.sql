-- open_runs: how many runs are open, by state
SELECT state, count(*) FROM @run WHERE state IN ('pending', 'running') GROUP BY state

-- waiting_by_queue: agent runs that are queued, those of them that are due, and how long the first of these has been
SELECT queue, count(*), count(*) FILTER (WHERE due_at IS NULL OR due_at <= now()),
       min(coalesce(due_at, queued_at)) FILTER (WHERE due_at IS NULL OR due_at <= now()), now()
FROM @agent_run WHERE state = 'queued' GROUP BY queue

-- running_by_queue: agent runs that some worker executes
SELECT queue, count(*) FROM @agent_run WHERE state = 'running' AND worker_id IS NOT NULL GROUP BY queue

-- waiting_mail: messages that wait for agent runs that have not ended, by agent
SELECT a.agent, count(*) FROM @agent_message m JOIN @agent_run a ON a.id = m.recipient_id
WHERE m.state = 'waiting' AND a.state || '' NOT IN ('succeeded', 'failed', 'cancelled', 'skipped') GROUP BY a.agent

-- announced_queues: every agent that is known, so that a queue that is empty shows as 0
SELECT queue FROM @agent

-- fleet_size: workers with a fresh heartbeat, and their slots
SELECT count(*), coalesce(sum(slots), 0) FROM @worker WHERE beat_at > ago(:lease_ttl)
