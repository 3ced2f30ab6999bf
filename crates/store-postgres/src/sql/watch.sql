-- The next settle or release tells of it; a takeover keeps the wish. Whether its row is locked: nobody waits for it here.
WITH got AS MATERIALIZED (
    SELECT id FROM {records} WHERE id = $1 AND state = 'processing' AND NOT wanted FOR UPDATE SKIP LOCKED
),
changed AS (
    UPDATE {records} r SET wanted = true FROM got WHERE r.id = got.id
)
SELECT NOT EXISTS (SELECT FROM got) FROM {records} WHERE id = $1 AND state = 'processing' AND NOT wanted
