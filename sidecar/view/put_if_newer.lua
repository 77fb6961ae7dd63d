-- KEYS[1]: a state; ARGV: generation, revision, when it was confirmed (microseconds), the state's bytes, seconds to keep it,
-- checksum of all that.
-- Stores it unless what is there is of the same generation and newer: of a higher revision, or confirmed later at the same.
local held = redis.call('HMGET', KEYS[1], 'generation', 'revision', 'as_of')
if held[1] == ARGV[1] then
  local revision, mine = tonumber(held[2] or 0), tonumber(ARGV[2])
  if revision > mine or (revision == mine and tonumber(held[3] or 0) > tonumber(ARGV[3])) then
    return 0
  end
end
redis.call('HSET', KEYS[1], 'generation', ARGV[1], 'revision', ARGV[2], 'as_of', ARGV[3], 'state', ARGV[4],
  'checksum', ARGV[6])
redis.call('EXPIRE', KEYS[1], ARGV[5])
return 1
