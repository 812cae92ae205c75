-- Makes entries of the fenced generation what they are in another one. KEYS: catalogue, fence.
-- ARGV: fence's token, the other generation, then kinds and ids in turns.
local current = redis.call('HGET', KEYS[1], 'current') or '0'
if redis.call('GET', KEYS[2]) ~= ARGV[1] .. ' ' .. current then
    return { 'unfenced' }
end
local mine, other = KEYS[1] .. ':' .. current .. ':', KEYS[1] .. ':' .. ARGV[2] .. ':'
local _, begun = furthest(mine .. 'state')
if begun then
    -- Some of the batch is in the counts already, and its writer goes on from there.
    return { 'busy' }
end
if redis.call('HEXISTS', other .. 'state', 'token') == 0 then
    return { 'missing' }
end

local function copy(part, id)
    local found = redis.call('HGET', other .. part, id)
    if found then
        redis.call('HSET', mine .. part, id, found)
    else
        redis.call('HDEL', mine .. part, id)
    end
end

for i = 3, #ARGV, 2 do
    local kind, id = ARGV[i], ARGV[i + 1]
    if kind == 'person' then
        copy('people', id)
    else
        copy('posts', id)
        local score = redis.call('ZSCORE', other .. 'trending', id)
        if score then
            redis.call('ZADD', mine .. 'trending', score, id)
        else
            redis.call('ZREM', mine .. 'trending', id)
        end
    end
end
redis.call('HSET', mine .. 'state', 'posts', redis.call('HLEN', mine .. 'posts'),
    'people', redis.call('HLEN', mine .. 'people'), 'trending', redis.call('ZCARD', mine .. 'trending'))
local version = redis.call('HINCRBY', mine .. 'state', 'version', 1)
redis.call('HSET', mine .. 'state', 'stamp', version .. ':mend')
return { 'done' }
