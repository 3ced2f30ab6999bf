-- Claims free ids, renews one's own claims and reads what stands in the way, each as it was when the statement began. An id
-- that is in no row of the answer was taken at this very moment: the statement is to be sent again.
WITH t AS MATERIALIZED (SELECT clock_timestamp() AS now {waits}),
seen AS MATERIALIZED (
    SELECT c.*, t.now, r.owner, r.state, r.claimed_at, r.lease_until, r.expires_at, r.fingerprint, r.digest, r.meta, r.body,
        r.id IS NOT NULL AND r.expires_at > t.now AND NOT (r.owner = c.me AND r.state = 'processing') AS stands
    FROM t
    CROSS JOIN unnest($1::bytea[], $2::bytea[], $3::bytea[], $4::bytea[], $5::int8[], $6::int8[], $7::int8[])
        AS c (of_id, me, my_fingerprint, my_meta, lease, retention, lock)
    LEFT JOIN LATERAL (SELECT * FROM {records} WHERE id = c.of_id LIMIT 1) r ON true
),
-- Whoever works in an open transaction on an id holds its lock alone.
free AS MATERIALIZED (
    SELECT *, {is_free} AS is_free FROM seen WHERE NOT stands
),
claimed AS (
    INSERT INTO {records} AS r (id, owner, state, claimed_at, lease_until, expires_at, fingerprint, meta)
    SELECT of_id, me, 'processing', now, now + lease * interval '1 microsecond',
        now + (lease + retention) * interval '1 microsecond', my_fingerprint, my_meta
    FROM free WHERE is_free ORDER BY of_id
    ON CONFLICT (id) DO UPDATE SET
        owner = excluded.owner,
        state = 'processing',
        digest = NULL,
        body = NULL,
        claimed_at = CASE WHEN r.expires_at > excluded.claimed_at THEN r.claimed_at ELSE excluded.claimed_at END,
        fingerprint = CASE WHEN r.expires_at > excluded.claimed_at THEN r.fingerprint ELSE excluded.fingerprint END,
        meta = CASE WHEN r.expires_at > excluded.claimed_at THEN r.meta ELSE excluded.meta END,
        wanted = r.expires_at > excluded.claimed_at AND r.wanted,
        -- A lease is never cut short: a renewal that was held up must not undo a later one.
        lease_until = CASE WHEN r.expires_at > excluded.claimed_at THEN greatest(r.lease_until, excluded.lease_until)
            ELSE excluded.lease_until END,
        expires_at = CASE WHEN r.expires_at > excluded.claimed_at THEN greatest(r.lease_until, excluded.lease_until)
            + (excluded.expires_at - excluded.lease_until) ELSE excluded.expires_at END
    WHERE r.expires_at <= excluded.claimed_at OR (r.owner = excluded.owner AND r.state = 'processing')
    RETURNING r.id
)
SELECT id, 'claimed' AS answer, NULL::timestamptz AS now, NULL::bytea AS owner, NULL::text AS state,
    NULL::timestamptz AS claimed_at, NULL::timestamptz AS lease_until, NULL::timestamptz AS expires_at,
    NULL::bytea AS fingerprint, NULL::bytea AS digest, NULL::bytea AS meta, NULL::bytea AS body
FROM claimed
UNION ALL
SELECT of_id, 'busy', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL FROM free WHERE NOT is_free
UNION ALL
SELECT of_id, 'exists', now, owner, state, claimed_at, lease_until, expires_at, fingerprint, digest, meta, body
FROM seen WHERE stands
