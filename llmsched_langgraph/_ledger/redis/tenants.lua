-- Fair shares of a backend's service: `tenants.py`.

local FIRST_MEAN_S, MEMORY = 1.0, 32
local STANDARD = { weight = 1.0 }

-- The settings of a tenant.
function tenants.of(tenant)
  return state.get('tenants', tenant) or STANDARD
end

function tenants.begins(turn, level, number)
  if not turn then
    return { virtual_s = level.virtual_s, floor_s = level.virtual_s, held = 0, number = number, lanes = 1 }
  end
  return numbers.replace(tenants.lifted(turn, level), { number = number, lanes = turn.lanes + 1 })
end

function tenants.lifted(turn, level)
  return numbers.replace(turn, {
    virtual_s = math.max(turn.virtual_s, level.virtual_s),
    floor_s = math.max(turn.floor_s, level.virtual_s),
  })
end

function tenants.settled(turn, share, served_s)
  local more_s = served_s / share.weight - share.charge_s
  local virtual_s = turn.virtual_s + more_s
  if more_s <= 0.0 then
    virtual_s = math.max(virtual_s, math.min(turn.floor_s, turn.virtual_s))
  end
  return numbers.replace(turn, { virtual_s = virtual_s, held = turn.held - 1 })
end

-- The service times of a backend.
function tenants.served(backend)
  return state.get('served', backend) or { calls = 0, mean_s = FIRST_MEAN_S }
end

function tenants.after(served, served_s)
  local calls = served.calls + 1
  return { calls = calls, mean_s = served.mean_s + (served_s - served.mean_s) / math.min(calls, MEMORY) }
end
