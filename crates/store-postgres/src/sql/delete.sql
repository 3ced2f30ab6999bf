-- Releases or forgets where the owner says so. An id that is in no row of the answer is not there, or locked by a transaction
-- that is open: nobody waits for it here.
WITH t AS MATERIALIZED (SELECT clock_timestamp() AS now),
got AS MATERIALIZED (
    SELECT u.*, t.now, r.owner, r.state, r.lease_until, r.expires_at, r.wanted
    FROM t
    CROSS JOIN unnest($1::bytea[], $2::bytea[], $3::bool[]) AS u (of_id, me, forgets)
    JOIN {records} r ON r.id = u.of_id
    ORDER BY u.of_id
    FOR UPDATE OF r SKIP LOCKED
),
decided AS MATERIALIZED (
    SELECT *, CASE
        WHEN expires_at <= now THEN 'not_found'
        WHEN owner <> me THEN 'fenced'
        -- A running record is its caller's; only what is settled or orphaned is an operator's to delete.
        WHEN forgets THEN CASE WHEN state = 'processing' AND lease_until > now THEN 'fenced' ELSE 'applied' END
        WHEN state = 'processing' THEN 'applied'
        ELSE 'fenced'
    END AS answer
    FROM got
),
deleted AS (
    DELETE FROM {records} r USING decided d WHERE r.id = d.of_id AND d.answer = 'applied'
)
SELECT of_id, answer,
    CASE WHEN wanted AND answer = 'applied' THEN pg_notify($4, encode(of_id, 'hex')) IS NULL END
FROM decided
