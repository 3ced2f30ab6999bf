SELECT id, clock_timestamp() AS now, owner, state, claimed_at, lease_until, expires_at, fingerprint, digest, meta, body
FROM {records} WHERE id = ANY($1::bytea[]) AND expires_at > clock_timestamp()
