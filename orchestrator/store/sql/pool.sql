-- pools: what is wished for agents, where it is less than everything
SELECT agent, paused, fleet_slots, worker_slots, changed_at FROM @agent_pool
WHERE paused OR fleet_slots IS NOT NULL OR worker_slots IS NOT NULL ORDER BY agent

-- pool: the same of one agent
SELECT agent, paused, fleet_slots, worker_slots, changed_at FROM @agent_pool WHERE agent = :agent

-- open_pool: a row that can be held, also where nothing was wished yet
INSERT INTO @agent_pool (agent, paused, changed_at) VALUES (:agent, false, now()) ON CONFLICT DO NOTHING

-- lock_pool: hold what is wished for an agent alone: while it changes, and while one more agent run of it begins
SELECT agent, paused, fleet_slots, worker_slots, changed_at FROM @agent_pool WHERE agent = :agent /*pg FOR UPDATE */

-- change_pool: wish something else
UPDATE @agent_pool SET paused = :paused, fleet_slots = :fleet_slots, worker_slots = :worker_slots, changed_at = now()
WHERE agent = :agent RETURNING agent, paused, fleet_slots, worker_slots, changed_at

-- running_on: how many agent runs of a queue run now, also those of a worker that is dead and not taken over from yet
-- `|| ''` keeps the planner from the index that holds all that ever ended on the queue.
SELECT count(*) FROM @agent_run WHERE state = 'running' AND queue || '' = :queue
