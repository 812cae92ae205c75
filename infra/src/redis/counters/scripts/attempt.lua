-- Counts a try at a position. KEYS: state, attempts. ARGV: token, position and source.
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then
    return 0
end
return redis.call('HINCRBY', KEYS[2], ARGV[2], 1)
