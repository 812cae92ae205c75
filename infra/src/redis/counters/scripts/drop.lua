-- Removes a generation. KEYS: catalogue, claim. ARGV: claim's token, generation.
if redis.call('GET', KEYS[2]) ~= ARGV[1] then
    return { 'unclaimed' }
end
if redis.call('HGET', KEYS[1], 'current') == ARGV[2] or redis.call('HDEL', KEYS[1], ARGV[2]) == 0 then
    return { 'current' }
end
forget(KEYS[1], ARGV[2])
return { 'done' }
