-- limit_patience: the statements of this transaction give up in time, also before a locked table
SELECT set_config('statement_timeout', :milliseconds, true)

-- postgres_server: version, connections, and what a commit is worth
SELECT current_setting('server_version'),
       (SELECT sum(numbackends) FROM pg_stat_database),
       current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int,
       current_setting('fsync') = 'on', current_setting('synchronous_commit') <> 'off', pg_is_in_recovery()

-- sqlite_server: version and size of the file
SELECT sqlite_version(), p.page_count * s.page_size FROM pragma_page_count() p, pragma_page_size() s

-- worker_beats: every worker process, the silent ones too
SELECT w.id, w.name, w.pid, w.slots, w.draining, w.beat_at, now(),
       (SELECT count(*) FROM @agent_run a WHERE a.worker_id = w.id AND a.state = 'running'), w.broker
FROM @worker w ORDER BY w.name, w.id

-- served_queues: how many live workers consume each queue
SELECT q.queue, count(*) FROM @worker_queue q JOIN @worker w ON w.id = q.worker_id
WHERE w.beat_at > ago(:lease_ttl) AND NOT w.draining GROUP BY q.queue

-- waiting_lanes: for each queue and priority, how many published rows wait and since when, counted up to a bound
SELECT l.queue,
       (SELECT count(*) FROM (
           SELECT 1 FROM @agent_run a WHERE a.state = 'queued' AND a.queue = l.queue AND a.priority = l.priority
             AND a.published_at IS NOT NULL LIMIT :bound) counted),
       (SELECT min(oldest.queued_at) FROM (
           SELECT a.queued_at FROM @agent_run a WHERE a.state = 'queued' AND a.queue = l.queue AND a.priority = l.priority
             AND a.published_at IS NOT NULL ORDER BY a.published_at LIMIT :bound) oldest),
       now()
FROM (SELECT DISTINCT queue, priority FROM @agent_run WHERE state = 'queued' AND published_at IS NOT NULL) l

-- unpublished_due: rows that are due and that nobody has published
SELECT count(*), min(due.since), now() FROM (
    SELECT coalesce(due_at, queued_at) AS since FROM @agent_run
    WHERE state = 'queued' AND published_at IS NULL AND (due_at IS NULL OR due_at <= now()) LIMIT :bound
) due

-- unpublished_later: rows that wait for the time of their retry
SELECT count(*) FROM (
    SELECT 1 FROM @agent_run WHERE state = 'queued' AND published_at IS NULL AND due_at > now() LIMIT :bound
) later

-- running_without_worker: rows whose worker gives no sign of life
SELECT a.run_id, a.agent, a.claimed_at, now() FROM @agent_run a
WHERE a.state = 'running' AND NOT EXISTS (SELECT 1 FROM @worker w WHERE w.id = a.worker_id AND w.beat_at > ago(:silence))
ORDER BY a.claimed_at LIMIT 100

-- running_longest: rows that have been running for the longest time
SELECT run_id, agent, claimed_at, now() FROM @agent_run WHERE state = 'running' ORDER BY claimed_at LIMIT 5

-- runs_that_rest: of the oldest open runs those in which nothing can move, and nothing has for a while
SELECT r.id FROM (
    SELECT * FROM (SELECT id, created_at FROM @run WHERE state = 'pending' ORDER BY created_at LIMIT 1000) p
    UNION ALL
    SELECT * FROM (SELECT id, created_at FROM @run WHERE state = 'running' ORDER BY created_at LIMIT 1000) q
) r
WHERE r.created_at < ago(:rest) AND NOT EXISTS (
    SELECT 1 FROM @agent_run a
    WHERE a.run_id = r.id AND (a.state IN ('queued', 'running', 'suspended') OR a.finished_at > ago(:rest))
) LIMIT 100

-- open_run_count: how many runs have not ended, counted up to a bound
SELECT count(*) FROM (SELECT 1 FROM @run WHERE state IN ('pending', 'running') LIMIT :bound) counted

-- recent_failures: what the newest failed runs of a day failed of
SELECT coalesce(f.error ->> 'code', 'error'), count(*) FROM (
    SELECT error FROM @run WHERE state = 'failed' AND created_at > ago(:age) ORDER BY created_at DESC LIMIT :bound
) f GROUP BY 1

-- last_sweep: when the sweep ran
SELECT ran_at, now() FROM @sweep WHERE id = 1

-- table_sizes: the tables of ours, by size on disk; the numbers of rows are estimates
SELECT c.relname, c.reltuples::bigint, s.n_dead_tup, pg_total_relation_size(c.oid)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid
WHERE n.nspname = :schema AND c.relkind = 'r' ORDER BY 4 DESC
