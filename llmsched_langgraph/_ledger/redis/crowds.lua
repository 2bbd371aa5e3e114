-- Why a further call may not wait, as `crowd` has it: `memory.py`. How many tickets of a tenant wait is
-- counted only for tenants with such a limit.

local UNKNOWN = { input_tokens = 1000, output_tokens = 500 } -- what a call without estimates counts with

local function name_of(backend, tenant)
  return 'queued ' .. backend .. ':' .. tenant
end

-- Count tickets of a tenant that begin to wait, or with a negative number, that do so no more.
function crowds.count(backend, tenant, more)
  if tenants.of(tenant).max_queued then
    local name = name_of(backend, tenant)
    state.set_count(name, state.count(name) + more)
  end
end

-- Forget all counts, after the limits have changed.
function crowds.forget()
  for name in pairs(state.all('counts')) do
    if string.sub(name, 1, 7) == 'queued ' then
      state.set_count(name, 0)
    end
  end
end

-- The limit because of which one more call of the tenant may not wait at the backend; nil if it may.
function crowds.of(now, backend, tenant)
  local waiting, limit = backend.waiting, backend.max_queued
  if waiting == 0 then
    return nil
  end
  local found
  if limit and waiting >= limit then
    found = { tenant = '', waiting = waiting, limit = limit }
  else
    local own, most = state.count(name_of(backend.id, tenant)), tenants.of(tenant).max_queued
    if not most or own < most then
      return nil
    end
    found = { tenant = tenant, waiting = own, limit = most }
  end
  if backend.holding >= backend.limit or ceilings.blocked(now, backend.id, tenant) then
    return found
  end
  -- Those that wait may all be of tenants at their limit.
  local ready_s = pauses.ready_s(backend.pause, backend.granted, backend.limit)
  if backend.rates then
    ready_s = math.max(ready_s, capacity.ready_s(backend, now, UNKNOWN))
  end
  return ready_s > now and found or nil
end
