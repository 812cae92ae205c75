-- Moves the pointer from the fenced generation to another and takes the fence away. KEYS: catalogue, fence.
-- ARGV: fence's token, generation to become current, a new token for the one that was, the log's source.
local fence = redis.call('GET', KEYS[2])
local current = redis.call('HGET', KEYS[1], 'current') or '0'
if fence ~= ARGV[1] .. ' ' .. current then
    return { 'unfenced' }
end
local found = redis.call('HGET', KEYS[1], ARGV[2])
local to = KEYS[1] .. ':' .. ARGV[2] .. ':state'
if not found or ARGV[2] == current or redis.call('HEXISTS', to, 'token') == 0 then
    return { 'missing' }
end
-- Filled from the log, it stands in every partition where it stands in the log; only the offsets are the other's.
local filled = redis.call('HGET', to, 'c:' .. ARGV[4])
local old = KEYS[1] .. ':' .. current .. ':state'
local fields = redis.call('HGETALL', old)
if filled then
    local place_and_event = string.match(filled, '^%d+ %S+')
    for i = 1, #fields, 2 do
        local offset = string.match(fields[i + 1], '^%d+ %S+ (%d+.*)$')
        if string.sub(fields[i], 1, 2) == 'c:' and fields[i] ~= 'c:' .. ARGV[4] and offset then
            redis.call('HSET', to, fields[i], place_and_event .. ' ' .. offset)
        end
    end
end
if current ~= '0' and redis.call('HEXISTS', KEYS[1], current) == 1 then
    local previous = string.gsub(redis.call('HGET', KEYS[1], current), '^%a+', 'previous')
    redis.call('HSET', KEYS[1], current, previous)
    -- Whoever still writes it has lost it.
    redis.call('HSET', old, 'token', ARGV[3])
end
local moved = string.gsub(found, '^%a+', 'current')
redis.call('HSET', KEYS[1], ARGV[2], moved, 'current', ARGV[2])
redis.call('HINCRBY', to, 'version', 1)
redis.call('DEL', KEYS[2])
return { 'done' }
