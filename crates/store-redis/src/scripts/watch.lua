-- The next settle or release tells of it; a takeover keeps the wish.
local head = live(redis.call('GETRANGE', KEYS[1], 0, HEAD - 1))
if head and state(head) == 0 then redis.call('SETRANGE', KEYS[1], 2, '\1') end
return 0
