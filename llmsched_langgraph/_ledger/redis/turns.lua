-- The turns of tenants, and the charges for their grants: `turns.py`.

local function lines_of(backend)
  return 'lines ' .. backend
end

local function level_of(line)
  return state.get('levels', line.at) or { virtual_s = 0.0, lanes = 0, lines = 0 }
end

local function put_level(line, level)
  if not state.get('levels', line.at) then
    redis.call('ZADD', state.key('levels', line.backend), line.level, line.level)
  end
  state.put('levels', line.at, level)
end

local function count_lines(backend, more)
  local name = lines_of(backend)
  state.set_count(name, state.count(name) + more)
end

local function take_turns(now, line, turn)
  lines.take_turns(line, turn, ceilings.blocking(now, line.backend, line.tenant))
  state.put('lines', line.id, turn)
end

local function remove(line)
  state.put('lines', line.id, false)
  count_lines(line.backend, -1)
  local level = state.get('levels', line.at)
  if level.lines == 1 then
    state.put('levels', line.at, false)
    redis.call('ZREM', state.key('levels', line.backend), line.level)
  else
    put_level(line, numbers.replace(level, { lines = level.lines - 1 }))
  end
end

local function rest(line, turn, level)
  if turn.held > 0 then
    return
  end
  if level.lanes > 0 and turn.virtual_s > level.virtual_s then
    lines.rest(line, turn)
    state.put('lines', line.id, turn)
  else
    remove(line)
  end
end

local function forget_rested(line, virtual_s)
  for _, tenant in ipairs(lines.rested(line, virtual_s)) do
    local other = lines.of(line.backend, line.level, tenant)
    lines.rest_no_more(other, state.get('lines', other.id))
    remove(other)
  end
end

-- waiting --------------------------------------------------------------------------------

function turns.enter(now, line, number)
  local turn, level = state.get('lines', line.id), level_of(line)
  put_level(line, {
    virtual_s = level.virtual_s,
    lanes = level.lanes + 1,
    lines = level.lines + (turn and 0 or 1),
  })
  if not turn then
    count_lines(line.backend, 1)
  elseif turn.lanes > 0 then
    state.put('lines', line.id, numbers.replace(turn, { lanes = turn.lanes + 1 }))
    return
  else
    lines.rest_no_more(line, turn)
  end
  take_turns(now, line, tenants.begins(turn, level, number))
end

function turns.leave(line)
  local turn, level = state.get('lines', line.id), level_of(line)
  level = numbers.replace(level, { lanes = level.lanes - 1 })
  put_level(line, level)
  turn = numbers.replace(turn, { lanes = turn.lanes - 1 })
  state.put('lines', line.id, turn)
  if turn.lanes == 0 then
    lines.take_no_turns(line, turn)
    rest(line, turn, level)
  end
  if level.lanes == 0 then
    forget_rested(line, math.huge)
  end
end

-- slots ----------------------------------------------------------------------------------

-- Let the lines of a tenant take turns, or not, as its limits have it now.
function turns.place(now, backend, tenant)
  for _, level in ipairs(lines.levels(backend)) do
    local line = lines.of(backend, tonumber(level), tenant)
    local turn = state.get('lines', line.id)
    if turn and turn.lanes > 0 then
      take_turns(now, line, turn)
    end
  end
end

-- Whether a lane of the tenant waits at the backend.
function turns.waits(backend, tenant)
  for _, level in ipairs(lines.levels(backend)) do
    local turn = state.get('lines', lines.of(backend, tonumber(level), tenant).id)
    if turn and turn.lanes > 0 then
      return true
    end
  end
  return false
end

-- What to settle at the release; nil for nothing.
function turns.charge(now_s, line)
  local backend, tenant = line.backend, line.tenant
  local turn = state.get('lines', line.id)
  if tenant == '' and state.count(lines_of(backend)) == (turn and 1 or 0) then
    return nil
  end
  ceilings.take_back(now_s, backend)
  turn = state.get('lines', line.id)
  local now, first = level_of(line), lines.first(line)
  if first and first.virtual_s > now.virtual_s then
    now = numbers.replace(now, { virtual_s = first.virtual_s })
    put_level(line, now)
  end
  local tokens = ceilings.hold(now_s, backend, tenant)
  if not turn then
    turn = { virtual_s = now.virtual_s, floor_s = now.virtual_s, held = 0, number = 0, lanes = 0 }
    count_lines(backend, 1)
    now = numbers.replace(now, { lines = now.lines + 1 })
    put_level(line, now)
  elseif turn.lanes == 0 or tokens > 0 then -- because of its tokens it may have taken no turns for a while
    lines.rest_no_more(line, turn)
    turn = tenants.lifted(turn, now)
  end
  local weight, mean_s = tenants.of(tenant).weight, tenants.served(backend).mean_s
  local share = {
    level = line.level,
    tenant = tenant,
    charge_s = mean_s / weight,
    weight = weight,
    tokens = tokens,
  }
  turn = numbers.replace(turn, { virtual_s = turn.virtual_s + share.charge_s, held = turn.held + 1 })
  if turn.lanes > 0 then
    take_turns(now_s, line, turn)
  else
    state.put('lines', line.id, turn)
  end
  if ceilings.limited(tenant) then
    ceilings.place(now_s, backend, tenant)
  end
  forget_rested(line, now.virtual_s)
  return share
end

-- Let the lines of a tenant that had as many slots as it may take turns again.
local function lift(now, backend, tenant)
  for _, level in ipairs(lines.levels(backend)) do
    local line = lines.of(backend, tonumber(level), tenant)
    local turn = state.get('lines', line.id)
    if turn and turn.lanes > 0 then
      take_turns(now, line, tenants.lifted(turn, level_of(line)))
    end
  end
end

-- `served_s` is nil if the attempt failed.
function turns.settle(now, backend, share, served_s)
  local line = lines.of(backend, share.level, share.tenant)
  if served_s then
    state.put('served', backend, tenants.after(tenants.served(backend), served_s))
  end
  local turn = tenants.settled(state.get('lines', line.id), share, served_s or 0.0)
  state.put('lines', line.id, turn)
  if ceilings.free(backend, share.tenant) then
    lift(now, backend, share.tenant)
    turn = state.get('lines', line.id)
  end
  if turn.lanes > 0 then
    take_turns(now, line, turn)
  else
    rest(line, turn, level_of(line))
  end
end
