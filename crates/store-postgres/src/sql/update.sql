-- Renews, completes or halts where the owner says so. An id that is in no row of the answer is not there, or locked by a transaction that
-- is open: nobody waits for it here.
WITH t AS MATERIALIZED (SELECT clock_timestamp() AS now),
got AS MATERIALIZED (
    SELECT u.*, t.now, r.owner, r.state, r.lease_until, r.expires_at, r.digest, r.wanted
    FROM t
    CROSS JOIN unnest($1::bytea[], $2::bytea[], $3::text[], $4::int8[], $5::int8[], $6::text[], $7::bytea[], $8::bytea[])
        AS u (of_id, me, change, lease, retention, becomes, new_digest, new_body)
    JOIN {records} r ON r.id = u.of_id
    ORDER BY u.of_id
    FOR UPDATE OF r SKIP LOCKED
),
decided AS MATERIALIZED (
    SELECT *, CASE
        WHEN expires_at <= now THEN 'not_found'
        WHEN owner <> me THEN 'fenced'
        WHEN state = 'processing' THEN 'applied'
        WHEN state IN ('completed', 'not_kept') THEN
            CASE WHEN change = 'complete' AND digest = new_digest THEN 'already' ELSE 'fenced' END
        WHEN change = 'complete' AND state = 'shutdown' THEN 'applied'
        WHEN change = 'halt' THEN 'already'
        ELSE 'fenced'
    END AS answer
    FROM got
),
changed AS (
    UPDATE {records} r SET
        state = CASE WHEN d.change = 'renew' THEN r.state ELSE d.becomes END,
        wanted = d.change = 'renew' AND r.wanted,
        digest = d.new_digest,
        body = d.new_body,
        -- A lease is never cut short: a renewal that was held up must not undo a later one.
        lease_until = CASE WHEN d.change = 'renew'
            THEN greatest(d.lease_until, d.now + d.lease * interval '1 microsecond') END,
        expires_at = d.retention * interval '1 microsecond' + CASE WHEN d.change = 'renew'
            THEN greatest(d.lease_until, d.now + d.lease * interval '1 microsecond') ELSE d.now END
    FROM decided d
    WHERE r.id = d.of_id AND d.answer = 'applied'
)
SELECT of_id, answer,
    CASE WHEN wanted AND answer = 'applied' AND change <> 'renew' THEN pg_notify($9, encode(of_id, 'hex')) IS NULL END
FROM decided
