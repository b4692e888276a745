-- undoable: how the agent runs of a run stand when it is to end, held so that nobody claims one of them meanwhile
SELECT position, state, epoch > 0, input, CASE WHEN input IS NOT NULL THEN output END
FROM @agent_run WHERE run_id = :run_id ORDER BY position /*pg FOR UPDATE */

-- set_own_input: what a compensation gets in place of what the workflow says
UPDATE @agent_run SET input = :input/*pg ::jsonb*/ WHERE id = :id

-- begin_ending: a run that goes on until what it did is undone
UPDATE @run SET state = 'running', ending = :ending/*pg ::jsonb*/ WHERE id = :run_id

-- next_undo: the compensation that is to run next
SELECT position FROM @agent_run
WHERE run_id = :run_id AND position > :after AND state = 'blocked' AND parent_id IS NULL ORDER BY position LIMIT 1

-- release_undos: queue the compensations of a stage, and note that they will be published
UPDATE @agent_run
SET state = 'queued', queued_at = now(), published_at = now(), dispatch = dispatch + 1, republished = 0
WHERE run_id = :run_id AND position >= :first AND position <= :last AND state = 'blocked'
RETURNING id, position, dispatch, priority
