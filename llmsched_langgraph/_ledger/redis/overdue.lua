-- Which waiting lanes have waited for too long: `overdue.py`. The lanes of each tenant with a limit have
-- an index of their own, because they may have to be passed over. Ties go by the lane.

local function group_of(tenant)
  return ceilings.limited(tenant) and tenant or ''
end

local function settings()
  return state.get('settings', 'overdue') or { every = 1 }
end

-- When a lane that begins to wait becomes overdue, on the clock that stops during pauses.
function overdue.due_s(backend, now, waited_s)
  local max_wait_s = settings().max_wait_s
  if not max_wait_s then
    return math.huge
  end
  return pauses.open_s(backend.pause, now) + max_wait_s - waited_s
end

-- Whether the next grant of the backend may serve an overdue lane.
function overdue.turn(backend)
  return not backend.overdue or backend.granted + 1 - backend.overdue >= settings().every
end

function overdue.add(lane, known)
  if known.due_s == math.huge then
    return
  end
  local group = group_of(known.tenant)
  redis.call('ZADD', state.key('due', known.backend, group), numbers.text(known.due_s), lane)
  redis.call('SADD', state.key('dues', known.backend), group)
end

function overdue.remove(lane, known)
  if known.due_s == math.huge then
    return
  end
  local group = group_of(known.tenant)
  local key = state.key('due', known.backend, group)
  redis.call('ZREM', key, lane)
  if redis.call('ZCARD', key) == 0 then
    redis.call('SREM', state.key('dues', known.backend), group)
  end
end

-- The lane that is overdue for longest; nil if none is.
function overdue.first(now, backend, open_s)
  local found, least
  for _, group in ipairs(redis.call('SMEMBERS', state.key('dues', backend))) do
    local entry = redis.call('ZRANGE', state.key('due', backend, group), 0, 0, 'WITHSCORES')
    local lane, due_s = entry[1], tonumber(entry[2])
    if lane and due_s <= open_s and not (group ~= '' and ceilings.blocked(now, backend, group)) then
      if not found or due_s < least or (due_s == least and numbers.before(lane, found)) then
        found, least = lane, due_s
      end
    end
  end
  return found
end
