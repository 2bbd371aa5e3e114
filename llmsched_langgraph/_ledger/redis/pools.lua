-- The state of each backend: its slots held, its backlog's length, its capacity: `pools.py`. Backends have
-- numbers, because their names are no part of a key.

local MEASURED_S = 60.0

-- The number of a backend; false for an unknown name.
function pools.id(name)
  return state.get('names', name)
end

function pools.get(id)
  return state.get('backends', id)
end

function pools.put(backend)
  state.put('backends', backend.id, backend)
end

local function add(settings)
  local id = numbers.text(state.count('backends') + 1)
  state.set_count('backends', tonumber(id))
  local backend = {
    id = id,
    name = settings.name,
    max_queued = settings.max_queued,
    holding = 0,
    waiting = 0,
    granted = 0,
    released = 0,
  }
  capacity.new(backend, settings)
  state.put('names', settings.name, id)
  pools.put(backend)
  return backend
end

-- Take over the settings of a backend, or of a new one; return it, and whether tickets wait there.
function pools.configure(now, settings)
  local id = pools.id(settings.name)
  if not id then
    return add(settings), false
  end
  local backend = pools.get(id)
  backend.max_queued = settings.max_queued
  capacity.configured(backend, now, settings)
  pools.put(backend)
  return backend, backend.waiting > 0
end

-- One more ticket is in the backlog.
function pools.queue(id)
  local backend = pools.get(id)
  backend.waiting = backend.waiting + 1
  pools.put(backend)
end

-- Give a slot to a ticket; `queued` tells whether it is in the backlog.
function pools.hold(now, ticket, waits, reason, share, queued)
  local backend = pools.get(waits.backend)
  backend.holding, backend.granted = backend.holding + 1, backend.granted + 1
  if queued then
    backend.waiting = backend.waiting - 1
  end
  capacity.granted(backend, now, waits.estimate)
  if reason == 'overdue' then
    backend.overdue = backend.granted
  end
  local grant = numbers.replace(waits, {
    granted_s = now,
    reason = reason,
    concurrency = backend.holding,
    slots = backend.limit,
    share = share or numbers.NONE,
  })
  state.put('tickets', ticket, grant)
  pools.put(backend)
  return grant
end

local function await(now, ticket, backend, attempt, well)
  local number = state.count('awaited') + 1
  state.set_count('awaited', number)
  local place = numbers.pad(number) .. ticket
  redis.call('ZADD', state.key('awaited'), numbers.text(now), place)
  state.put('unmeasured', ticket, { backend = backend.id, attempt = attempt, well = well, place = place })
end

-- An attempt has ended.
local function ended(now, ticket, grant, backend, release)
  local attempt = {
    granted_s = grant.granted_s,
    released_s = now,
    estimate = grant.estimate,
    concurrency = grant.concurrency,
    in_use = backend.holding,
    waiting = backend.waiting > 0,
  }
  if release.quotas then
    capacity.corrected(backend, now, release.quotas)
  end
  if release.failure then
    capacity.failed(backend, attempt, release.failure)
    return
  end
  capacity.ended(backend, attempt, release.well)
  if release.usage then
    capacity.used(backend, now, attempt, release.usage, release.well)
  elseif not capacity.plain(backend) then
    await(now, ticket, backend, attempt, release.well)
  end
end

-- A ticket has left its slot or the backlog; return whether others wait. Without `usage`, its tokens are
-- pending.
function pools.free(now, ticket, claim, release)
  local backend = pools.get(claim.backend)
  if claim.granted_s then
    if release.failure or backend.pause.backoff_s ~= 0 or not capacity.plain(backend) then
      ended(now, ticket, claim, backend, release)
    end
    backend.holding, backend.released = backend.holding - 1, backend.released + 1
  else
    backend.waiting = backend.waiting - 1
  end
  pools.put(backend)
  return backend.waiting > 0
end

-- Count the tokens of a released ticket; return its backend, nil if they are not awaited.
function pools.measure(now, ticket, usage)
  local pending = state.get('unmeasured', ticket)
  if not pending then
    return nil
  end
  state.put('unmeasured', ticket, false)
  redis.call('ZREM', state.key('awaited'), pending.place)
  local backend = pools.get(pending.backend)
  capacity.used(backend, now, pending.attempt, usage, pending.well)
  pools.put(backend)
  return backend.id
end

-- Count the estimate where the tokens of an attempt have not become known in time.
function pools.forget_unmeasured(now)
  while true do
    local entry = redis.call('ZRANGE', state.key('awaited'), 0, 0, 'WITHSCORES')
    if not entry[1] or now - tonumber(entry[2]) < MEASURED_S then
      return
    end
    pools.measure(now, string.sub(entry[1], 17), {})
  end
end
