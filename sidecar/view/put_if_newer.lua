-- KEYS[1]: a state; ARGV: generation, revision, the state's bytes, seconds to keep it.
-- Stores it unless what is there is of the same generation and a higher revision.
local held = redis.call('HMGET', KEYS[1], 'generation', 'revision')
if held[1] == ARGV[1] and tonumber(held[2]) > tonumber(ARGV[2]) then
  return 0
end
redis.call('HSET', KEYS[1], 'generation', ARGV[1], 'revision', ARGV[2], 'state', ARGV[3])
redis.call('EXPIRE', KEYS[1], ARGV[4])
return 1
