-- The waiting lanes of each backend, by level, tenant and order: `lines.py`. A line is a table of a backend
-- (its number, as text), a level and a tenant; `at` is its level, `id` the line itself.
--
-- Every index is a sorted set that has the current entries alone. A member ends in what it stands for, behind
-- zero-padded numbers that break ties.

local DIGITS = 16

function lines.of(backend, level, tenant)
  local at = backend .. ':' .. numbers.text(level)
  return { backend = backend, level = level, tenant = tenant, at = at, id = at .. ':' .. tenant }
end

local function first(key)
  return redis.call('ZRANGE', key, 0, 0)[1]
end

-- lanes ----------------------------------------------------------------------------------

-- Add a lane whose first ticket has this arrival number.
function lines.add(lane, known, arrival)
  local id = lines.of(known.backend, known.level, known.tenant).id
  known.place = numbers.pad(arrival) .. lane
  redis.call('ZADD', state.key('ranks', id), numbers.text(known.order), known.place)
  if known.urgent_s < math.huge then
    redis.call('ZADD', state.key('coming', id), numbers.text(known.urgent_s), known.place)
  end
end

function lines.remove(known)
  local id = lines.of(known.backend, known.level, known.tenant).id
  redis.call('ZREM', state.key('ranks', id), known.place)
  if known.urgent_s < math.huge then
    redis.call('ZREM', state.key('coming', id), known.place)
    redis.call('ZREM', state.key('urgent', id), known.place)
  end
end

-- The first lane of a line; false if none waits.
function lines.head(line)
  local place = first(state.key('ranks', line.id))
  return place and string.sub(place, DIGITS + 1)
end

-- The first lane of a line that is urgent; nil if none is.
function lines.urgent(line, now)
  local coming, urgent = state.key('coming', line.id), state.key('urgent', line.id)
  for _, place in ipairs(redis.call('ZRANGEBYSCORE', coming, '-inf', numbers.text(now))) do
    local known = state.get('lanes', string.sub(place, DIGITS + 1))
    redis.call('ZREM', coming, place)
    redis.call('ZADD', urgent, numbers.text(known.order), place)
  end
  local place = first(urgent)
  while place do
    local lane = string.sub(place, DIGITS + 1)
    if now < state.get('lanes', lane).lost_s then
      return lane
    end
    redis.call('ZREM', urgent, place)
    place = first(urgent)
  end
end

-- The first lanes of a line, in service order.
function lines.in_order(line, most)
  local lanes = {}
  for index, place in ipairs(redis.call('ZRANGE', state.key('ranks', line.id), 0, most - 1)) do
    lanes[index] = string.sub(place, DIGITS + 1)
  end
  state.load('lanes', lanes)
  return lanes
end

-- turns ----------------------------------------------------------------------------------

-- Let the line take turns, at the place of its turn, unless its tenant is at its limit of slots.
function lines.take_turns(line, turn, blocked)
  lines.take_no_turns(line, turn)
  if not blocked then
    turn.place = numbers.pad(turn.held) .. numbers.pad(turn.number) .. line.tenant
    redis.call('ZADD', state.key('turns', line.at), numbers.text(turn.virtual_s), turn.place)
  end
end

function lines.take_no_turns(line, turn)
  if turn.place then
    redis.call('ZREM', state.key('turns', line.at), turn.place)
    turn.place = nil
  end
end

-- The levels of a backend that have lines.
function lines.levels(backend)
  return redis.call('ZRANGE', state.key('levels', backend), 0, -1)
end

local function next_tenant(backend, level)
  local place = first(state.key('turns', backend, level))
  return place and string.sub(place, 2 * DIGITS + 1)
end

-- The line whose turn it is; nil if none may have a slot.
function lines.next(backend)
  for _, level in ipairs(lines.levels(backend)) do
    local tenant = next_tenant(backend, level)
    if tenant then
      return lines.of(backend, tonumber(level), tenant)
    end
  end
end

-- The turn of the first line of a level; nil if none may have a slot.
function lines.first(line)
  local tenant = next_tenant(line.backend, numbers.text(line.level))
  return tenant and state.get('lines', line.at .. ':' .. tenant)
end

-- The line neither waits nor holds a slot, and is kept for its virtual time.
function lines.rest(line, turn)
  turn.rests = true
  redis.call('ZADD', state.key('resting', line.at), numbers.text(turn.virtual_s), line.tenant)
end

function lines.rest_no_more(line, turn)
  if turn.rests then
    turn.rests = nil
    redis.call('ZREM', state.key('resting', line.at), line.tenant)
  end
end

-- The tenants of the resting lines of a level whose virtual time is at most this.
function lines.rested(line, virtual_s)
  return redis.call('ZRANGEBYSCORE', state.key('resting', line.at), '-inf', numbers.text(virtual_s))
end

-- The arrival number of the first ticket of a waiting lane.
function lines.arrival(known)
  return tonumber(string.sub(known.place, 1, DIGITS))
end
