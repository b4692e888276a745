-- last_firing: the newest key of a schedule; `substr` because some collations pass over the signs between the words
SELECT r.idempotency_key FROM @run r JOIN @project p ON p.id = r.project_id
WHERE p.tenant_id = :tenant_id AND p.name = :project AND r.idempotency_key BETWEEN :first AND :last
  AND substr(r.idempotency_key, 1, length(:prefix)) = :prefix
ORDER BY r.idempotency_key DESC LIMIT 1

-- firing: the run that a schedule has made at one time
SELECT r.id FROM @run r JOIN @project p ON p.id = r.project_id
WHERE p.tenant_id = :tenant_id AND p.name = :project AND r.idempotency_key = :key
