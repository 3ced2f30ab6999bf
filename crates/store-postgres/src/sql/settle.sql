-- Renews, completes or halts claims that run, each where the owner says so. It waits for rows that others have locked, but only
-- for a moment. An id that is in no row of the answer is another case, which `update.sql` tells. What is settled stays `wanted`: only
-- of claims that run is it asked, and a word too many wakes nobody for long.
WITH t AS MATERIALIZED (SELECT clock_timestamp() AS now {waits}),
u AS MATERIALIZED (
    SELECT u.*, t.now
    FROM t
    CROSS JOIN unnest($1::bytea[], $2::bytea[], $3::text[], $4::int8[], $5::int8[], $6::text[], $7::bytea[], $8::bytea[])
        AS u (of_id, me, change, lease, retention, becomes, new_digest, new_body)
    -- All lock in this order.
    ORDER BY u.of_id
),
changed AS (
    UPDATE {records} r SET
        state = CASE WHEN u.change = 'renew' THEN r.state ELSE u.becomes END,
        digest = u.new_digest,
        body = u.new_body,
        -- A lease is never cut short: a renewal that was held up must not undo a later one.
        lease_until = CASE WHEN u.change = 'renew'
            THEN greatest(r.lease_until, u.now + u.lease * interval '1 microsecond') END,
        expires_at = u.retention * interval '1 microsecond' + CASE WHEN u.change = 'renew'
            THEN greatest(r.lease_until, u.now + u.lease * interval '1 microsecond') ELSE u.now END
    FROM u
    WHERE r.id = u.of_id AND r.owner = u.me AND r.state = 'processing' AND r.expires_at > u.now
    RETURNING r.id, r.wanted AND u.change <> 'renew' AS tells
)
SELECT id AS of_id, 'applied' AS answer, CASE WHEN tells THEN pg_notify($9, encode(id, 'hex')) IS NULL END FROM changed
