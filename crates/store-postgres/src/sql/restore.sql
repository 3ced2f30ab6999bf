-- Writes a whole record with the times that it has left: if the id is free, or its own claim runs here. No row: it is taken.
WITH t AS MATERIALIZED (SELECT clock_timestamp() AS now)
INSERT INTO {records} AS r (id, owner, state, claimed_at, lease_until, expires_at, fingerprint, digest, meta, body)
SELECT $1, $2, $3, t.now - $4::int8 * interval '1 microsecond', t.now + $5::int8 * interval '1 microsecond',
    t.now + $6::int8 * interval '1 microsecond', $7, $8, $9, $10
FROM t
ON CONFLICT (id) DO UPDATE SET
    owner = excluded.owner,
    state = excluded.state,
    claimed_at = excluded.claimed_at,
    lease_until = excluded.lease_until,
    expires_at = excluded.expires_at,
    fingerprint = excluded.fingerprint,
    digest = excluded.digest,
    meta = excluded.meta,
    body = excluded.body,
    wanted = r.owner = excluded.owner AND r.wanted
WHERE r.expires_at <= clock_timestamp() OR (r.owner = excluded.owner AND r.state = 'processing')
RETURNING true
