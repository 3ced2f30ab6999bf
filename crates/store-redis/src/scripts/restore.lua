-- Writes a whole record with the times that it has left: if the id is free, or its own claim runs here. Answers: 0 restored,
-- 1 expired.
local key, before, after, meta_and_body = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local claimed_ago, expires_in, lapses_in = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
if expires_in <= 0 then return { now, 1 } end
as_primary(key)
local stored = live(redis.call('GET', key))
local wanted = '\0'
if stored then
    if state(stored) ~= 0 or owner(stored) ~= string.sub(before, 3, 18) then return { now, stored } end
    wanted = string.sub(stored, 3, 3)
end
local lapses = lapses_in == 0 and 0 or now + lapses_in
local head = string.sub(before, 1, 2) .. wanted .. string.sub(before, 3) .. bytes(now - claimed_ago)
    .. bytes(now + expires_in) .. bytes(lapses) .. after
redis.call('SET', key, head .. meta_and_body, 'PXAT', until_ms(now + expires_in))
return { now, 0 }
