-- An orphan becomes one's own claim; whether it did, the claim that follows finds out.
WITH t AS MATERIALIZED (SELECT clock_timestamp() AS now, pg_try_advisory_xact_lock_shared($7) AS is_free)
UPDATE {records} r SET
    owner = $2,
    state = 'processing',
    digest = NULL,
    body = NULL,
    claimed_at = t.now,
    meta = $4,
    lease_until = t.now + $5::int8 * interval '1 microsecond',
    expires_at = t.now + ($5::int8 + $6::int8) * interval '1 microsecond'
FROM t
WHERE t.is_free AND r.id = $1 AND r.owner = $8 AND r.owner <> $2 AND r.fingerprint = $3 AND r.expires_at > t.now
    AND (r.state NOT IN ('processing', 'completed', 'not_kept') OR (r.state = 'processing' AND r.lease_until <= t.now))
