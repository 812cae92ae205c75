-- What the scripts share. A generation's keys are <catalogue>:<generation>:<part>.
local function place(text)
    return tonumber(string.match(text or '', '^%d+') or '0')
end

local function text(number)
    return string.format('%.0f', number)
end

local function now()
    local time = redis.call('TIME')
    return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- How far a generation may have got in any source, a batch in the middle of being written included.
local function furthest(state)
    local found = redis.call('HGETALL', state)
    local most, begun = 0, false
    for i = 1, #found, 2 do
        local kind = string.sub(found[i], 1, 2)
        if kind == 'c:' or kind == 'p:' then
            most = math.max(most, place(found[i + 1]))
            begun = begun or kind == 'p:'
        end
    end
    return most, begun
end

local parts = { 'state', 'posts', 'people', 'trending', 'parked', 'attempts', 'writers' }

local function forget(catalogue, generation)
    for _, part in ipairs(parts) do
        redis.call('UNLINK', catalogue .. ':' .. generation .. ':' .. part)
    end
end
