-- undecided_of: those of some runs with a decision that nobody has taken
SELECT DISTINCT a.run_id FROM @agent_run a JOIN @countdown c ON c.id = a.id
WHERE a.run_id = ANY(:runs::uuid[]) AND a.state = 'blocked' AND a.gated AND c.remaining = 0
