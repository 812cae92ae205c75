-- A new, empty generation. KEYS: catalogue, claim. ARGV: claim's token, highest number known, now, token, format, code.
if redis.call('GET', KEYS[2]) ~= ARGV[1] then
    return { 'unclaimed' }
end
local highest = tonumber(ARGV[2])
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
    highest = math.max(highest, tonumber(field) or 0)
end
local generation = text(highest + 1)
forget(KEYS[1], generation)
redis.call('HSET', KEYS[1] .. ':' .. generation .. ':state', 'token', ARGV[4], 'format', ARGV[5],
    'made_by', ARGV[6], 'version', 0, 'stamp', '0', 'posts', 0, 'people', 0, 'trending', 0)
redis.call('HSET', KEYS[1], generation, 'building ' .. ARGV[3])
return { 'done', generation }
