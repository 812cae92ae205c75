-- Reads the current generation. KEYS: catalogue. ARGV: stamp that the reader knows, what to read, with what.
local current = redis.call('HGET', KEYS[1], 'current')
if not current then
    return { 'missing' }
end
local base = KEYS[1] .. ':' .. current .. ':'
local state = redis.call('HMGET', base .. 'state', 'token', 'stamp', 'posts', 'people', 'trending')
if not state[1] then
    return { 'missing' }
end
local trending = base .. 'trending'
if redis.call('HLEN', base .. 'posts') ~= tonumber(state[3])
    or redis.call('HLEN', base .. 'people') ~= tonumber(state[4])
    or redis.call('ZCARD', trending) ~= tonumber(state[5]) then
    return { 'missing' }
end
local stamp = current .. ':' .. state[1] .. ':' .. state[2]
local places = stamp ~= ARGV[1] and redis.call('HGETALL', base .. 'state')

-- Whether a text comes before another byte by byte, as the server orders members. `<` goes by the server's locale.
local function precedes(one, other)
    for i = 1, math.min(#one, #other) do
        local mine, theirs = string.byte(one, i), string.byte(other, i)
        if mine ~= theirs then
            return mine < theirs
        end
    end
    return #one < #other
end

-- The index of the first post behind a score and an id, in descending order.
local function behind(rank, id)
    local low = redis.call('ZCOUNT', trending, '(' .. rank, '+inf')
    local high = redis.call('ZCOUNT', trending, rank, '+inf')
    while low < high do
        local middle = math.floor((low + high) / 2)
        if precedes(redis.call('ZREVRANGE', trending, middle, middle)[1], id) then
            high = middle
        else
            low = middle + 1
        end
    end
    return low
end

local data = {}
if ARGV[2] == 'posts' and #ARGV > 2 then
    data = redis.call('HMGET', base .. 'posts', unpack(ARGV, 3))
    for i, row in ipairs(data) do
        data[i] = row and string.sub(row, 1, 17)
    end
elseif ARGV[2] == 'person' then
    data = { redis.call('HGET', base .. 'people', ARGV[3]) }
elseif ARGV[2] == 'trending' then
    local first = ARGV[5] and behind(ARGV[4], ARGV[5]) or tonumber(ARGV[4])
    data = redis.call('ZREVRANGE', trending, first, first + tonumber(ARGV[3]) - 1, 'WITHSCORES')
end
return { 'done', stamp, places, data }
