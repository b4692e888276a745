-- memory_put: keep a piece, in place of the one that has its id; when that was made, it was made
INSERT INTO @memory AS m (
    id, tenant_id, project_id, scope, kind, about, body, source, line, digest, embedder, embedding, created_at
) VALUES (
    :id, :tenant_id, :project_id, :scope, :kind, :about, :body, :source, :line, :digest, :embedder, :embedding, now()
)
ON CONFLICT (id) DO UPDATE SET
    kind = excluded.kind, about = excluded.about, body = excluded.body, source = excluded.source, line = excluded.line,
    digest = excluded.digest, embedder = excluded.embedder, embedding = excluded.embedding
WHERE m.tenant_id = excluded.tenant_id AND m.project_id = excluded.project_id AND m.scope = excluded.scope

-- memory_nearest: pieces of one embedder by their nearness to a vector, where Postgres has pgvector
SELECT id, scope, kind, about, body, source, line, digest, embedder, created_at,
       1 - (embedding::vector <=> :vector::real[]::vector)
FROM @memory
WHERE tenant_id = :tenant_id AND project_id = :project_id AND scope = ANY(:scopes::text[]) AND embedder = :embedder
  AND (:any_kind = 1 OR kind = ANY(:kinds::text[])) AND (:any_about = 1 OR about = :about)
ORDER BY embedding::vector <=> :vector::real[]::vector, id LIMIT :most

-- memory_nearest_plain: the same where Postgres has no pgvector; vectors have length 1, so the product is the cosine
SELECT id, scope, kind, about, body, source, line, digest, embedder, created_at, (
    SELECT sum(u.a::double precision * u.b) FROM unnest(m.embedding, :vector::real[]) AS u(a, b)
) AS score
FROM @memory m
WHERE tenant_id = :tenant_id AND project_id = :project_id AND scope = ANY(:scopes::text[]) AND embedder = :embedder
  AND (:any_kind = 1 OR kind = ANY(:kinds::text[])) AND (:any_about = 1 OR about = :about)
ORDER BY score DESC, id LIMIT :most

-- memory_nearest_sqlite: the same on SQLite
SELECT id, scope, kind, about, body, source, line, digest, embedder, created_at,
       1 - vec_distance_cosine(embedding, :vector) AS score
FROM @memory
WHERE tenant_id = :tenant_id AND project_id = :project_id AND scope = ANY(:scopes::text[]) AND embedder = :embedder
  AND (:any_kind = 1 OR kind = ANY(:kinds::text[])) AND (:any_about = 1 OR about = :about)
ORDER BY score DESC, id LIMIT :most

-- memory_has_vectors: whether there is pgvector, where our statements look for it
SELECT to_regtype('vector') IS NOT NULL

-- memory_list: pieces of one memory, the newest first, behind one of them
SELECT id, scope, kind, about, body, source, line, digest, embedder, created_at FROM @memory
WHERE tenant_id = :tenant_id AND project_id = :project_id AND scope = :scope
  AND (:any_kind = 1 OR kind = ANY(:kinds::text[])) AND (:any_about = 1 OR about = :about)
ORDER BY created_at DESC, id DESC LIMIT :most

-- memory_others: pieces of one memory that another embedder has made
SELECT id, scope, kind, about, body, source, line, digest, embedder, created_at FROM @memory
WHERE tenant_id = :tenant_id AND project_id = :project_id AND scope = :scope AND embedder <> :embedder
ORDER BY created_at, id LIMIT :most

-- memory_embedders: who has made the vectors of some memories
SELECT scope, embedder, count(*), max(created_at), count(DISTINCT source) FROM @memory
WHERE tenant_id = :tenant_id AND project_id = :project_id AND (:any_scope = 1 OR scope = ANY(:scopes::text[]))
GROUP BY scope, embedder ORDER BY scope, embedder

-- memory_other_embedder: one that has made vectors of some memories, and is another one
SELECT scope, embedder FROM @memory
WHERE tenant_id = :tenant_id AND project_id = :project_id AND scope = ANY(:scopes::text[]) AND embedder <> :embedder LIMIT 1

-- memory_documents: the documents of a corpus, with who has made their vectors
SELECT DISTINCT source, digest, embedder FROM @memory
WHERE tenant_id = :tenant_id AND project_id = :project_id AND scope = :scope AND source IS NOT NULL

-- memory_remove: forget some pieces of one memory
DELETE FROM @memory
WHERE tenant_id = :tenant_id AND project_id = :project_id AND scope = :scope AND id = ANY(:ids::uuid[])

-- memory_remove_about: forget what is about something, or all of one memory
DELETE FROM @memory
WHERE tenant_id = :tenant_id AND project_id = :project_id AND scope = :scope AND (:any_about = 1 OR about = :about)

-- memory_remove_document: forget the passages of one document
DELETE FROM @memory
WHERE tenant_id = :tenant_id AND project_id = :project_id AND scope = :scope AND source = :source

-- memory_remove_old: forget what was remembered some time ago, in one memory or in all
DELETE FROM @memory WHERE id IN (
    SELECT id FROM @memory
    WHERE created_at < ago(:age) AND (
        (:any_scope = 1 AND scope NOT LIKE 'corpus:%')
        OR (tenant_id = :tenant_id AND project_id = :project_id AND scope = :scope)
    )
    ORDER BY created_at LIMIT :most /*pg FOR UPDATE SKIP LOCKED */
)

-- memory_overfull: memories that hold more than they may
SELECT tenant_id, project_id, scope, count(*) FROM @memory WHERE scope NOT LIKE 'corpus:%'
GROUP BY tenant_id, project_id, scope HAVING count(*) > :keep LIMIT :most

-- memory_remove_oldest: forget the oldest of one memory
DELETE FROM @memory WHERE id IN (
    SELECT id FROM @memory WHERE tenant_id = :tenant_id AND project_id = :project_id AND scope = :scope
    ORDER BY created_at, id LIMIT :most
)

-- memory_count: how much one memory holds
SELECT count(*) FROM @memory WHERE tenant_id = :tenant_id AND project_id = :project_id AND scope = :scope

-- session_open: make a conversation, or take a turn at it until the commit
INSERT INTO @memory_session AS s (id, tenant_id, project_id, agent, name, next_number, created_at, used_at)
VALUES (:id, :tenant_id, :project_id, :agent, :name, 0, now(), now())
ON CONFLICT (tenant_id, project_id, agent, name) DO UPDATE SET used_at = now()
RETURNING id, next_number

-- session_known: those of some messages that are there
SELECT id FROM @memory_message WHERE session_id = :session_id AND id = ANY(:ids::uuid[])

-- session_say: keep a message
INSERT INTO @memory_message (id, session_id, tenant_id, number, body, created_at)
VALUES (:id, :session_id, :tenant_id, :number, :body, now())

-- session_say_again: what a message says now
UPDATE @memory_message SET body = :body WHERE id = :id AND session_id = :session_id

-- session_advance: count what was said
UPDATE @memory_session SET next_number = :next_number WHERE id = :id

-- session_trim: forget all but the last messages of a conversation
DELETE FROM @memory_message WHERE session_id = :session_id AND number < :first

-- session_length: how many messages a conversation has
SELECT count(*) FROM @memory_message WHERE session_id = :session_id

-- session_read: the last messages of a conversation, the newest first
SELECT m.body FROM @memory_message m JOIN @memory_session s ON s.id = m.session_id
WHERE s.tenant_id = :tenant_id AND s.project_id = :project_id AND s.agent = :agent AND s.name = :name
ORDER BY m.number DESC LIMIT :most

-- session_clear: forget the messages of a conversation; its numbers go on
DELETE FROM @memory_message WHERE session_id IN (
    SELECT id FROM @memory_session
    WHERE tenant_id = :tenant_id AND project_id = :project_id AND agent = :agent AND name = :name
)

-- session_list: the conversations of a project, those used last first
SELECT s.agent, s.name, (SELECT count(*) FROM @memory_message m WHERE m.session_id = s.id), s.used_at FROM @memory_session s
WHERE s.tenant_id = :tenant_id AND s.project_id = :project_id AND (:any_agent = 1 OR s.agent = :agent)
ORDER BY s.used_at DESC, s.name LIMIT :most

-- session_forget: forget conversations that were not used for some time
DELETE FROM @memory_session WHERE id IN (
    SELECT id FROM @memory_session WHERE used_at < ago(:age) ORDER BY used_at LIMIT :most /*pg FOR UPDATE SKIP LOCKED */
)
