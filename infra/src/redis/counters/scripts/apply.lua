-- Writes one part of a batch. KEYS: fence, state, posts, people, trending, parked.
-- Everything is read, and thereby known to be of the right type, before the first write.
local generation, token, source, log = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local after, from, upto, target = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local checkpoint, letter = ARGV[9], ARGV[10]
local blobs = { ARGV[11], ARGV[12] }

local state = redis.call('HMGET', KEYS[2], 'token', 'c:' .. source, 'p:' .. source, 'c:' .. log, 'posts', 'people')
if state[1] ~= token then
    return { 'lost' }
end
if letter == '' then
    local stood = math.max(place(state[2]), place(state[4]))
    if target <= stood then
        return { 'known' }
    end
    if stood ~= after then
        return { 'moved' }
    end
    local done = math.max(stood, place(state[3]))
    if done ~= from then
        return { 'at', text(done) }
    end
end
local fence = redis.call('GET', KEYS[1])
if fence and string.match(fence, ' (%d+)$') == generation then
    return { 'fenced' }
end
if letter ~= '' and redis.call('HEXISTS', KEYS[6], letter) == 0 then
    return { 'gone' }
end
if source == log and letter == '' then
    -- Whoever reads the log leaves out what the checkpoints of partitions cover. A batch that was cut off in the middle is in
    -- no checkpoint: its events would be counted again.
    for _, field in ipairs(redis.call('HKEYS', KEYS[2])) do
        if string.sub(field, 1, 2) == 'p:' and field ~= 'p:' .. source then
            return { 'mixed' }
        end
    end
end
if redis.call('HLEN', KEYS[3]) ~= tonumber(state[5]) or redis.call('HLEN', KEYS[4]) ~= tonumber(state[6]) then
    return { 'damaged' }
end
redis.call('ZCARD', KEYS[5])
redis.call('HLEN', KEYS[6])

local posts, post_ids = {}, {}
local at = 1
while at <= #blobs[1] do
    local id, flags, likes, comments, changed, count
    id, flags, likes, comments, changed, count, at = struct.unpack('<c16BdddH', blobs[1], at)
    local sums = {}
    for i = 1, count do
        local life, whole, part
        life, whole, part, at = struct.unpack('<ddd', blobs[1], at)
        sums[i] = { life, whole, part }
    end
    post_ids[#post_ids + 1] = id
    posts[#posts + 1] = { flags, likes, comments, changed, sums }
end
local people, person_ids = {}, {}
at = 1
while at <= #blobs[2] do
    local id, followers, following, written, changed
    id, followers, following, written, changed, at = struct.unpack('<c16dddd', blobs[2], at)
    person_ids[#person_ids + 1] = id
    people[#people + 1] = { followers, following, written, changed }
end

local post_rows, scores, unranked = {}, {}, {}
if #post_ids > 0 then
    local stored = redis.call('HMGET', KEYS[3], unpack(post_ids))
    for i, delta in ipairs(posts) do
        local kind, likes, comments, changed, sums = 0, 0, 0, 0, ''
        local old = stored[i]
        if old then
            if #old < 25 or (#old - 25) % 24 ~= 0 then
                return { 'damaged' }
            end
            kind, likes, comments, changed = struct.unpack('<Bddd', old)
            sums = string.sub(old, 26)
        end
        local ranked = kind == 1
        local appeared = delta[1] % 4
        if kind == 0 then
            kind = appeared
        end
        if kind == 3 or delta[1] >= 4 then
            -- The tombstone: whatever was counted, before or after, counts no more.
            kind, likes, comments, sums = 3, 0, 0, ''
        else
            likes, comments = likes + delta[2], comments + delta[3]
            sums = merge(sums, delta[5])
        end
        changed = math.max(changed, delta[4])
        post_rows[#post_rows + 1] = post_ids[i]
        post_rows[#post_rows + 1] = struct.pack('<Bddd', kind, likes, comments, changed) .. sums
        local rank = kind == 1 and score(sums)
        if rank then
            scores[#scores + 1] = string.format('%.17g', rank)
            scores[#scores + 1] = post_ids[i]
        elseif ranked then
            unranked[#unranked + 1] = post_ids[i]
        end
    end
end
local person_rows = {}
if #person_ids > 0 then
    local stored = redis.call('HMGET', KEYS[4], unpack(person_ids))
    for i, delta in ipairs(people) do
        local followers, following, written, changed = 0, 0, 0, 0
        if stored[i] then
            if #stored[i] ~= 32 then
                return { 'damaged' }
            end
            followers, following, written, changed = struct.unpack('<dddd', stored[i])
        end
        person_rows[#person_rows + 1] = person_ids[i]
        person_rows[#person_rows + 1] = struct.pack('<dddd', followers + delta[1], following + delta[2],
            written + delta[3], math.max(changed, delta[4]))
    end
end

-- From here on there are only writes.
if #post_rows > 0 then
    redis.call('HINCRBY', KEYS[2], 'posts', redis.call('HSET', KEYS[3], unpack(post_rows)))
end
if #person_rows > 0 then
    redis.call('HINCRBY', KEYS[2], 'people', redis.call('HSET', KEYS[4], unpack(person_rows)))
end
local ranks = 0
if #scores > 0 then
    ranks = redis.call('ZADD', KEYS[5], unpack(scores))
end
if #unranked > 0 then
    ranks = ranks - redis.call('ZREM', KEYS[5], unpack(unranked))
end
redis.call('HINCRBY', KEYS[2], 'trending', ranks)
for i = 13, #ARGV, 2 do
    redis.call('HSET', KEYS[6], ARGV[i], ARGV[i + 1])
end
local version = redis.call('HINCRBY', KEYS[2], 'version', 1)
if letter ~= '' then
    redis.call('HDEL', KEYS[6], letter)
    redis.call('HSET', KEYS[2], 'stamp', version .. ':letter:' .. letter)
    return { 'done' }
end
redis.call('HSET', KEYS[2], 'stamp', version .. ':' .. source .. ':' .. text(upto))
if checkpoint == '' then
    redis.call('HSET', KEYS[2], 'p:' .. source, text(upto))
    return { 'done' }
end
redis.call('HSET', KEYS[2], 'c:' .. source, checkpoint)
if upto <= target then
    redis.call('HDEL', KEYS[2], 'p:' .. source)
end
return { 'done' }
