-- Writes a whole record with the time that it has left: if the id is free, or its own claim runs here. Answers: 0 restored,
-- 1 expired.
local key, value, expires_in = KEYS[1], ARGV[1], tonumber(ARGV[2])
if expires_in <= 0 then return { 0, 1 } end
as_primary(key)
local stored = live(redis.call('GET', key))
if stored then
    if state(stored) ~= 0 or owner(stored) ~= owner(value) then return { left(key), stored } end
    value = string.sub(value, 1, 2) .. string.sub(stored, 3, 3) .. string.sub(value, 4)
end
redis.call('SET', key, value, 'PX', expires_in)
return { 0, 0 }
