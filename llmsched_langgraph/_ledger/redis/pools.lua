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
    replicas = settings.replicas,
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
  backend.max_queued, backend.replicas = settings.max_queued, settings.replicas
  capacity.configured(backend, now, settings)
  pools.put(backend)
  return backend, backend.waiting > 0
end

-- Pause a backend until a time.
function pools.close(now, name, opens_s)
  local backend = pools.get(pools.id(name))
  backend.pause = pauses.until_(backend.pause, now, opens_s, backend.granted)
  pools.put(backend)
end

-- One more ticket is in the backlog.
function pools.queue(id)
  local backend = pools.get(id)
  backend.waiting = backend.waiting + 1
  pools.put(backend)
end

-- One more call of the replica that has the fewest; return the replica.
local function serve(backend)
  local held = state.get('replicas', backend.id) or {}
  local found
  for _, replica in ipairs(backend.replicas) do
    if not found or (held[replica] or 0) < (held[found] or 0) then
      found = replica
    end
  end
  held[found] = (held[found] or 0) + 1
  state.put('replicas', backend.id, held)
  return found
end

-- One call less of a replica.
local function served(backend, replica)
  local held = state.get('replicas', backend.id)
  held[replica] = held[replica] > 1 and held[replica] - 1 or nil
  state.put('replicas', backend.id, next(held) and held or false)
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
    replica = backend.replicas and serve(backend),
    share = share or numbers.NONE,
  })
  state.put('tickets', ticket, grant)
  pools.put(backend)
  return grant
end

local function await(now, ticket, backend, attempt, well, share)
  local number = state.count('awaited') + 1
  state.set_count('awaited', number)
  local place = numbers.pad(number) .. ticket
  redis.call('ZADD', state.key('awaited'), numbers.text(now), place)
  state.put('unmeasured', ticket, {
    backend = backend.id,
    attempt = attempt,
    well = well,
    share = share,
    place = place,
  })
end

-- Whether the tokens of a ticket count against a limit of its tenant.
local function counts(grant)
  return grant.share and grant.share.tokens > 0
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
  elseif not capacity.plain(backend) or counts(grant) then
    await(now, ticket, backend, attempt, release.well, grant.share)
  end
end

-- A ticket has left its slot or the backlog; return whether others wait. Without `usage`, its tokens are
-- pending.
function pools.free(now, ticket, claim, release)
  local backend = pools.get(claim.backend)
  if claim.granted_s then
    local plain = capacity.plain(backend) and not counts(claim)
    if release.failure or backend.pause.backoff_s ~= 0 or not plain then
      ended(now, ticket, claim, backend, release)
    end
    if claim.replica then
      served(backend, claim.replica)
    end
    backend.holding, backend.released = backend.holding - 1, backend.released + 1
  else
    backend.waiting = backend.waiting - 1
  end
  pools.put(backend)
  return backend.waiting > 0
end

-- Count the tokens of a released ticket; return what awaited them, nil if nothing did.
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
  return pending
end

-- The tickets whose tokens have been awaited for `MEASURED_S`, in the order of their releases.
function pools.unmeasured_since(now)
  local found = {}
  while true do
    local entry = redis.call('ZRANGE', state.key('awaited'), #found, #found, 'WITHSCORES')
    if not entry[1] or now - tonumber(entry[2]) < MEASURED_S then
      return found
    end
    found[#found + 1] = string.sub(entry[1], 17)
  end
end
