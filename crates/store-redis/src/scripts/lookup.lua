local stored = live(redis.call('GET', KEYS[1]))
if stored then return read_for_good(KEYS[1], stored, ARGV[1] == '1') end
as_primary(KEYS[1])
return { 0 }
