-- evaluation_open: the evaluation of the same content that has not come to its end
SELECT id FROM @evaluation
WHERE tenant_id = :tenant_id AND project_id = :project_id AND digest = :digest AND state = 'running'

-- evaluation_add: a new one, unless another process has just begun it
INSERT INTO @evaluation (id, tenant_id, project_id, name, digest, definition, state, cases, created_at)
VALUES (:id, :tenant_id, :project_id, :name, :digest, :definition/*pg ::jsonb*/, 'running', :cases, now())
ON CONFLICT DO NOTHING

-- evaluation_end: note that every trial has all its grades
UPDATE @evaluation SET state = 'finished', finished_at = now() WHERE id = :id AND state = 'running'

-- evaluation_head: one evaluation
SELECT e.id, e.name, p.name, e.state, e.cases, e.definition, e.created_at, e.finished_at
FROM @evaluation e JOIN @project p ON p.id = e.project_id
WHERE e.id = :id AND e.tenant_id = :tenant_id

-- evaluation_list: the newest first
SELECT e.id, e.name, p.name, e.state, e.cases, e.definition, e.created_at, e.finished_at
FROM @evaluation e JOIN @project p ON p.id = e.project_id
WHERE e.tenant_id = :tenant_id ORDER BY e.created_at DESC, e.id DESC LIMIT :most

-- trial_add: what came of a case; what is there already stays
INSERT INTO @trial (
    evaluation_id, number, tenant_id, variant, case_id, case_digest, tags, run_id, succeeded, output, error, grades,
    milliseconds, cost_nanousd, judge_nanousd, tokens
)
VALUES (
    :evaluation_id, :number, :tenant_id, :variant, :case_id, :case_digest, :tags/*pg ::jsonb*/, :run_id, :succeeded,
    :output/*pg ::jsonb*/, :error, :grades/*pg ::jsonb*/, :milliseconds, :cost, 0, :tokens
)
ON CONFLICT (evaluation_id, number) DO NOTHING

-- trial_grades: the grades of a trial, held while one is added
SELECT grades, judge_nanousd FROM @trial WHERE evaluation_id = :evaluation_id AND number = :number /*pg FOR UPDATE */

-- trial_grade: what a judge has said, and has cost
UPDATE @trial SET grades = :grades/*pg ::jsonb*/, judge_nanousd = :cost
WHERE evaluation_id = :evaluation_id AND number = :number

-- trial_list: every trial in the order of cases and variants
SELECT number, variant, case_id, case_digest, tags, run_id, succeeded, output, error, grades, milliseconds, cost_nanousd,
       judge_nanousd, tokens
FROM @trial WHERE evaluation_id = :evaluation_id ORDER BY number

-- run_times: when runs were first claimed, and when they ended
SELECT id, started_at, finished_at FROM @run WHERE id = ANY(:ids::uuid[])

-- run_costs: what runs' calls have cost and used
SELECT run_id, coalesce(sum(cost_nanousd), 0), coalesce(sum(input_tokens + output_tokens), 0)
FROM @model_call WHERE run_id = ANY(:ids::uuid[]) AND state = 'settled' GROUP BY run_id

-- experiment_put: an experiment as it is from now on
INSERT INTO @experiment AS e (tenant_id, name, definition, active, created_at, changed_at)
VALUES (:tenant_id, :name, :definition/*pg ::jsonb*/, :active, now(), now())
ON CONFLICT (tenant_id, name) DO UPDATE
SET definition = excluded.definition, active = excluded.active, changed_at = excluded.changed_at

-- experiment_list: all of them, by name
SELECT definition, active, created_at FROM @experiment WHERE tenant_id = :tenant_id ORDER BY name

-- arm_counts: how the runs of an experiment's arms stand; those of an evaluation may have the same names
SELECT r.variant, r.state, count(*) FROM @run r
WHERE r.variant = ANY(:variants::text[]) AND r.tenant_id = :tenant_id
  AND NOT EXISTS (SELECT 1 FROM @evaluation e WHERE e.id = r.batch_id)
GROUP BY r.variant, r.state

-- arm_times: when the newest runs of an arm that have succeeded began and ended
SELECT r.started_at, r.finished_at FROM @run r
WHERE r.variant = :variant AND r.tenant_id = :tenant_id AND r.state || '' = 'succeeded'
  AND NOT EXISTS (SELECT 1 FROM @evaluation e WHERE e.id = r.batch_id)
ORDER BY r.created_at DESC LIMIT :most

-- arm_costs: what the ended runs of arms have cost
SELECT r.variant, coalesce(sum(m.cost_nanousd), 0)
FROM @run r JOIN @model_call m ON m.run_id = r.id AND m.state = 'settled'
WHERE r.variant = ANY(:variants::text[]) AND r.tenant_id = :tenant_id AND r.finished_at IS NOT NULL
  AND NOT EXISTS (SELECT 1 FROM @evaluation e WHERE e.id = r.batch_id)
GROUP BY r.variant
