-- hold_ledger: let no call be reserved or settled until the transaction ends, on Postgres
-- Their statements wait for this before they look at anything, so they see what the transaction has changed.
LOCK TABLE @model_call IN SHARE ROW EXCLUSIVE MODE

-- raise_budget: give a budget a higher limit; what it has warned of is past
UPDATE @budget SET limit_nanousd = :limit, warned_at = NULL
WHERE tenant_id = :tenant_id AND scope = :scope AND period = :period AND limit_nanousd < :limit

-- add_to_budget: raise the limit of a budget by an amount
UPDATE @budget SET limit_nanousd = limit_nanousd + :amount, warned_at = NULL
WHERE tenant_id = :tenant_id AND scope = :scope AND period = :period

-- remove_budget: end a budget; what waits for it finds room
DELETE FROM @budget WHERE tenant_id = :tenant_id AND scope = :scope AND period = :period
