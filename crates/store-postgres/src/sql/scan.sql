SELECT id, clock_timestamp() AS now, owner, state, claimed_at, lease_until, expires_at, fingerprint, digest, meta, body
FROM {records} WHERE id > $1 AND expires_at > clock_timestamp() ORDER BY id LIMIT $2
