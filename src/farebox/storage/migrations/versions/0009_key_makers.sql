-- Whoever made a management key: it opens no more than its maker may. Keys that are there already
-- get theirs from the audit log; a key that was made with a key has that key's.

ALTER TABLE management_key ADD user_id uuid REFERENCES console_user;
COMMENT ON COLUMN management_key.user_id IS 'The person who made it, or made the key that made it;
none: it was made at a shell.';
CREATE INDEX management_key_user ON management_key (user_id) WHERE revoked_at IS NULL;

WITH RECURSIVE made AS (
    SELECT substr(subject_id, 5) AS key, actor_kind AS kind,
        substr(actor_id, strpos(actor_id, '_') + 1) AS maker
    FROM audit_event
    WHERE action = 'management_key.created' AND actor_kind IN ('user', 'management_key')
), whose AS (
    SELECT key, maker AS person FROM made WHERE kind = 'user'
    UNION
    SELECT m.key, w.person FROM made m JOIN whose w ON m.maker = w.key
    WHERE m.kind = 'management_key'
)
UPDATE management_key k SET user_id = u.id
FROM whose w JOIN console_user u ON replace(u.id::text, '-', '') = w.person
WHERE replace(k.id::text, '-', '') = w.key;
