-- What tenants hold and use against limits of their own: `ceilings.py`. Lines of tenants at a limit take no
-- turns; those that wait for tokens are in an index by the time at which they take turns again.

local function held_by(backend, tenant)
  return 'held ' .. backend .. ':' .. tenant
end

-- Whether a tenant has a limit.
function ceilings.limited(tenant)
  local own = tenants.of(tenant)
  return own.max_slots ~= nil or own.tokens_per_minute ~= nil
end

function ceilings.held(backend, tenant)
  return state.count(held_by(backend, tenant))
end

-- Whether the tenant holds as many slots of the backend as it may.
function ceilings.full(backend, tenant)
  local limit = tenants.of(tenant).max_slots
  return limit ~= nil and ceilings.held(backend, tenant) >= limit
end

local function allowance_of(backend, tenant)
  return state.get('allowances', backend .. ':' .. tenant) or allowances.unused()
end

-- When the tokens of a tenant admit a call.
local function ready_s(now, backend, tenant)
  local limit = tenants.of(tenant).tokens_per_minute
  return limit and allowances.ready_s(allowance_of(backend, tenant), limit, now) or now
end

-- Whether the tenant may not get a slot of the backend now.
function ceilings.blocked(now, backend, tenant)
  return ceilings.full(backend, tenant) or ready_s(now, backend, tenant) > now
end

-- The same, when lines of the tenant are to take turns: note when its tokens let them do so.
function ceilings.blocking(now, backend, tenant)
  local ready = ready_s(now, backend, tenant)
  if ready > now then
    redis.call('ZADD', state.key('back', backend), numbers.text(ready), tenant)
  end
  return ready > now or ceilings.full(backend, tenant)
end

-- The tokens of the tenant have changed, or time has passed: let its lines take turns, or not.
function ceilings.place(now, backend, tenant)
  if tenants.of(tenant).tokens_per_minute and ready_s(now, backend, tenant) <= now then
    redis.call('ZREM', state.key('back', backend), tenant)
  end
  turns.place(now, backend, tenant)
end

-- The tenant gets one more slot; return the tokens with which it counts.
function ceilings.hold(now, backend, tenant)
  local own = tenants.of(tenant)
  if own.max_slots then
    state.set_count(held_by(backend, tenant), ceilings.held(backend, tenant) + 1)
  end
  if not own.tokens_per_minute then
    return 0
  end
  local allowance = allowance_of(backend, tenant)
  local charge = allowances.charge(allowance)
  state.put('allowances', backend .. ':' .. tenant, allowances.granted(allowance, now, charge))
  return charge
end

-- The tenant has released a slot; return whether it held as many as it may.
function ceilings.free(backend, tenant)
  if not tenants.of(tenant).max_slots then
    return false
  end
  local was_full = ceilings.full(backend, tenant)
  state.set_count(held_by(backend, tenant), ceilings.held(backend, tenant) - 1)
  return was_full
end

-- A ticket with this share has used so many tokens.
function ceilings.count(now, backend, share, granted_s, usage, failed)
  local tokens = allowances.tokens_of(usage, failed)
  local allowance = allowance_of(backend, share.tenant)
  allowance = allowances.ended(allowance, now, granted_s, share.tokens, tokens)
  state.put('allowances', backend .. ':' .. share.tenant, allowance)
  ceilings.place(now, backend, share.tenant)
end

-- Let lines of tenants whose tokens admit a call again take turns.
function ceilings.take_back(now, backend)
  local ready = redis.call('ZRANGEBYSCORE', state.key('back', backend), '-inf', numbers.text(now))
  for _, tenant in ipairs(ready) do
    redis.call('ZREM', state.key('back', backend), tenant)
    turns.place(now, backend, tenant)
  end
end

-- When the tokens of the next tenant that waits, and may hold one more slot, admit a call; nil for none.
function ceilings.back(backend)
  local first = 0
  while true do
    local entry = redis.call('ZRANGE', state.key('back', backend), first, first, 'WITHSCORES')
    if not entry[1] then
      return nil
    elseif turns.waits(backend, entry[1]) and not ceilings.full(backend, entry[1]) then
      return tonumber(entry[2])
    end
    first = first + 1
  end
end

-- Count anew, after the limits have changed.
function ceilings.forget_held()
  for name in pairs(state.all('counts')) do
    if string.sub(name, 1, 5) == 'held ' then
      state.set_count(name, 0)
    end
  end
  for name in pairs(state.all('allowances')) do
    local backend, tenant = string.match(name, '^(%d+):(.*)$')
    if not tenants.of(tenant).tokens_per_minute then
      state.put('allowances', name, false)
      redis.call('ZREM', state.key('back', backend), tenant)
    end
  end
end

function ceilings.count_held(backend, tenant)
  if tenants.of(tenant).max_slots then
    state.set_count(held_by(backend, tenant), ceilings.held(backend, tenant) + 1)
  end
end
