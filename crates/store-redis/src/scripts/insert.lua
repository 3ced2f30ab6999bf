-- Claims an id, or takes an orphan over, or reads what is there. A claim is answered by when it lapses if it was written
-- anew, and by 0 if it was there already.
local key, value, lease, retention = KEYS[1], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local takes_over, waits = ARGV[4], ARGV[5] == '1'
local stored = live(redis.call('GET', key))

if stored then
    if owner(stored) == owner(value) then
        if state(stored) ~= 0 then return read_for_good(key, stored, waits) end
        renew(key, stored, lease, retention)
        return { 0, 0 }
    end
    local orphaned = state(stored) >= 16 or is_lapsed(key, stored)
    if not (orphaned and owner(stored) == takes_over and string.sub(stored, 20, 52) == string.sub(value, 20, 52)) then
        return read_for_good(key, stored, waits)
    end
    -- Whoever watches goes on doing so.
    value = string.sub(value, 1, 2) .. string.sub(stored, 3, 3) .. string.sub(value, 4)
end
redis.call('SET', key, value, 'PX', math.max(lease + retention, 1))
return { 0, lapses_at(key, value) }
