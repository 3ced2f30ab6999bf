-- When a record is looked at for pruning: no later than it expires, and by an earlier look it is noted anew. A claim notes when it
-- would expire if it were settled at once. What it comes to moves nothing in an index then, so that the new version of its row
-- goes into the same page without one; three quarters of a page are left free for that. Records from before are looked at first.
ALTER TABLE {records} ADD COLUMN look_at timestamptz NOT NULL DEFAULT '-infinity';
ALTER TABLE {records} SET (fillfactor = 25);
CREATE INDEX ON {records} (look_at);
DO $$
DECLARE by_expiry regclass;
BEGIN
    SELECT i.indexrelid INTO by_expiry FROM pg_index i
    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
    WHERE i.indrelid = '{records}'::regclass AND i.indnatts = 1 AND a.attname = 'expires_at';
    IF FOUND THEN
        EXECUTE format('DROP INDEX %s', by_expiry);
    END IF;
END
$$;
