-- add_agent: announce an agent; the last announcement counts
INSERT INTO @agent (name, queue, card, updated_at) VALUES (:name, :queue, :card/*pg ::jsonb*/, now())
ON CONFLICT (name) DO UPDATE SET queue = excluded.queue, card = excluded.card, updated_at = excluded.updated_at

-- agents: every agent that a worker has announced, with the number of live workers that serve it
SELECT a.name, a.card, a.updated_at, (
    SELECT count(*) FROM @worker_queue q JOIN @worker w ON w.id = q.worker_id
    WHERE q.queue = a.queue AND w.beat_at > ago(:lease_ttl) AND NOT w.draining
) FROM @agent a ORDER BY a.name

-- agent_cards: the cards of all agents that a worker has announced
SELECT name, queue, card, updated_at FROM @agent ORDER BY name

-- agent_capabilities: what the agents say that they can do; on SQLite the whole card
SELECT name, card /*pg -> 'capabilities' */ FROM @agent

-- queued_of: how much is queued for some agents, each counted up to a bound
SELECT a.name, (
    SELECT count(*) FROM (SELECT 1 FROM @agent_run r WHERE r.state = 'queued' AND r.queue = a.queue LIMIT :bound) counted
) FROM @agent a WHERE a.name = ANY(:names::text[])

-- running_of: how many agent runs of each queue run now
SELECT queue, count(*) FROM @agent_run WHERE state = 'running' GROUP BY queue

-- serving: which live workers serve some agents, with what version
SELECT a.name, w.id, w.name, w.slots, q.digest FROM @agent a
JOIN @worker_queue q ON q.queue = a.queue
JOIN @worker w ON w.id = q.worker_id
WHERE a.name = ANY(:names::text[]) AND w.beat_at > ago(:lease_ttl) AND NOT w.draining ORDER BY a.name, w.name, w.id

-- all_workers: every worker process, the silent ones too, with whether it has a fresh heartbeat
SELECT w.id, w.name, w.host, w.pid, w.slots, w.draining, w.started_at, w.beat_at, w.broker, w.beat_at > ago(:lease_ttl),
       (SELECT count(*) FROM @agent_run a WHERE a.worker_id = w.id AND a.state = 'running')
FROM @worker w ORDER BY w.name, w.id

-- all_worker_queues: what each worker process consumes
SELECT worker_id, queue FROM @worker_queue ORDER BY worker_id, queue

-- agent_names: names of the agents that a worker has announced
SELECT name FROM @agent

-- add_worker: a process joins the fleet
INSERT INTO @worker (id, name, pid, slots, draining, started_at, beat_at, beat_seq, broker, host)
VALUES (:id, :name, :pid, :slots, false, now(), now(), 0, :broker, :host)
ON CONFLICT (id) DO NOTHING

-- add_worker_queue: a queue that a worker consumes, and the version of the agent that it has
INSERT INTO @worker_queue (worker_id, queue, digest) VALUES (:worker_id, :queue, :digest)
ON CONFLICT (worker_id, queue) DO UPDATE SET digest = excluded.digest

-- keep_worker_queues: no other queues than these are a worker's any more
DELETE FROM @worker_queue WHERE worker_id = :worker_id AND NOT (queue = ANY(:queues::text[]))

-- beat: one sign of life for everything that a worker holds
UPDATE @worker SET beat_at = now(), beat_seq = beat_seq + 1, slots = :slots, draining = :draining WHERE id = :id

-- set_idle: since when a worker has had a free slot on all its queues, but for those that it takes nothing from (`shut`)
-- One that takes nothing for a pool's sake is not idle there: what waits on the queue is not lost.
UPDATE @worker_queue
SET idle_from = CASE WHEN :idle AND NOT (queue = ANY(:shut::text[])) THEN coalesce(idle_from, now()) END
WHERE worker_id = :worker_id AND (idle_from IS NULL) = (:idle AND NOT (queue = ANY(:shut::text[])))

-- remove_worker: a process leaves the fleet
DELETE FROM @worker WHERE id = :id

-- beats: what an observer sees of all workers
SELECT id, beat_seq, now() FROM @worker

-- live_workers: workers with a fresh heartbeat
SELECT w.id, w.name, w.pid, w.slots, w.draining, w.started_at, w.beat_at,
       (SELECT count(*) FROM @agent_run a WHERE a.worker_id = w.id AND a.state = 'running')
FROM @worker w WHERE w.beat_at > ago(:lease_ttl) ORDER BY w.name

-- live_queues: queues that some live worker consumes
SELECT DISTINCT q.queue FROM @worker_queue q JOIN @worker w ON w.id = q.worker_id
WHERE w.beat_at > ago(:lease_ttl) AND NOT w.draining

-- serving_brokers: where the live workers that serve a queue consume from
SELECT DISTINCT q.queue, w.broker FROM @worker_queue q JOIN @worker w ON w.id = q.worker_id
WHERE q.queue = ANY(:queues::text[]) AND w.beat_at > ago(:lease_ttl) AND NOT w.draining

-- held_by: what a worker holds, and whether it claimed that long ago
SELECT id, epoch, claimed_at < ago(:older_than), crashes FROM @agent_run WHERE worker_id = :worker_id AND state = 'running'

-- agent_card: what was announced of an agent
SELECT card FROM @agent WHERE name = :name
