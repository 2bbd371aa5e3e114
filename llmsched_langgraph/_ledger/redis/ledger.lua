-- The ledger's changes and grants: `memory.py`. A ticket is a number of a worker, and so is a job; both are
-- zero-padded behind the worker's, so that texts sort as numbers do.

local FIRST_COME = { level = 0, order = 0.0, tenant = '', urgent_s = math.huge, lost_s = math.huge }
local DIGITS = 16
local granted = {} -- of this call, in order: tickets and grants
local refused = {} -- tickets, and the limits of waiting calls because of which they may not wait

-- The backends where a grant may be possible, now or later, in the order in which that became so.
local ripe = state.get('counts', 'ripe') or {}

function ledger.ripen(backend)
  for _, own in ipairs(ripe) do
    if own == backend then
      return
    end
  end
  ripe[#ripe + 1] = backend
  state.put('counts', 'ripe', ripe)
end

local function ripen_not(index)
  table.remove(ripe, index)
  state.put('counts', 'ripe', #ripe > 0 and ripe)
end

function ledger.ticket(worker, ticket)
  return numbers.pad(worker) .. numbers.pad(ticket)
end

-- The worker of a ticket, and its number there.
function ledger.parts(ticket)
  return tonumber(string.sub(ticket, 1, DIGITS)), tonumber(string.sub(ticket, DIGITS + 1))
end

local function lane_of(worker, backend, change)
  local job = numbers.pad(worker) .. numbers.pad(change.job)
  return backend .. ':' .. job .. change.stage .. '\0' .. numbers.pad(change.occurrence), job
end

local function key_of(change)
  local key = {}
  for name, own in pairs(FIRST_COME) do
    key[name] = own
  end
  for name, own in pairs(change.key or {}) do
    key[name] = own
  end
  return key
end

local function line_of(known)
  return lines.of(known.backend, known.level, known.tenant)
end

local function report(ticket, grant)
  granted[#granted + 1] = { ticket, grant }
end

function ledger.granted()
  return granted
end

function ledger.refused()
  return refused
end

local function arrive(change)
  if change.arrival then
    return change.arrival
  end
  local arrival = state.count('arrivals') + 1
  state.set_count('arrivals', arrival)
  return arrival
end

local function add_ticket(worker, change)
  redis.call('ZADD', state.key('held by', worker), change.ticket, change.ticket)
end

-- changes --------------------------------------------------------------------------------

-- Grant at once if forced, or if a slot is free and no ticket waits at the backend; nil if neither.
local function admit(now, worker, change, ticket)
  local backend, key = pools.get(pools.id(change.backend)), key_of(change)
  local reason = 'free'
  if
    backend.waiting > 0
    or backend.holding >= backend.limit
    or now < pauses.ready_s(backend.pause, backend.granted, backend.limit)
    or (key.tenant ~= '' and ceilings.blocked(now, backend.id, key.tenant))
    or (backend.rates and now < capacity.ready_s(backend, now, change.estimate))
  then
    if not change.forced then
      return nil
    end
    reason = 'forced'
  end
  local arrival = arrive(change)
  local share = turns.charge(now, lines.of(backend.id, key.level, key.tenant))
  local waits = {
    backend = backend.id,
    lane = lane_of(worker, backend.id, change),
    arrival = arrival,
    asked_s = now,
    estimate = change.estimate,
  }
  add_ticket(worker, change)
  return pools.hold(now, ticket, waits, reason, share, false)
end

-- Index a lane whose key, or whose first ticket, may have changed.
local function move(now, lane, before, after, arrival)
  local moved = after.level ~= before.level or after.tenant ~= before.tenant
  if
    moved
    or after.order ~= before.order
    or after.urgent_s ~= before.urgent_s
    or after.lost_s ~= before.lost_s
    or arrival ~= lines.arrival(before)
  then
    lines.remove(before)
    lines.add(lane, after, arrival)
  end
  state.put('lanes', lane, after)
  if moved then
    crowds.count(before.backend, before.tenant, -before.waiting)
    crowds.count(before.backend, after.tenant, before.waiting)
    turns.enter(now, line_of(after), arrival)
    turns.leave(line_of(before))
    ledger.ripen(after.backend)
    overdue.remove(lane, before)
    overdue.add(lane, after)
  end
end

local function rekeyed(known, key)
  local changes = { explore = numbers.NONE }
  for name, own in pairs(key) do
    changes[name] = own
  end
  return numbers.replace(known, changes)
end

function ledger.request(now, worker, change)
  local ticket = ledger.ticket(worker, change.ticket)
  if state.get('tickets', ticket) then
    return
  end
  if change.forced or change.admit then
    local grant = admit(now, worker, change, ticket)
    if grant then
      report(ticket, grant)
      return
    end
  end
  local backend = pools.get(pools.id(change.backend))
  local lane, job = lane_of(worker, backend.id, change)
  local known = state.get('lanes', lane)
  if change.bounded then
    local tenant = change.key and key_of(change).tenant or known and known.tenant or ''
    local crowd = crowds.of(now, backend, tenant)
    if crowd then
      refused[#refused + 1] = { change.ticket, backend.name, crowd }
      return
    end
  end
  local arrival = arrive(change)
  if known then
    local after = change.key and rekeyed(known, key_of(change)) or numbers.replace(known, {})
    after.waiting = known.waiting + 1
    move(now, lane, known, after, math.min(lines.arrival(known), arrival))
  else
    known = key_of(change)
    known.backend, known.job, known.waiting = backend.id, job, 1
    known.due_s = overdue.due_s(backend, now, change.waited_s or 0.0)
    lines.add(lane, known, arrival)
    state.put('lanes', lane, known)
    turns.enter(now, line_of(known), arrival)
    overdue.add(lane, known)
  end
  queues.add(lane, arrival, ticket)
  crowds.count(backend.id, state.get('lanes', lane).tenant, 1)
  ledger.ripen(backend.id)
  state.put('tickets', ticket, {
    backend = backend.id,
    lane = lane,
    arrival = arrival,
    asked_s = now,
    estimate = change.estimate,
  })
  add_ticket(worker, change)
  pools.queue(backend.id)
end

function ledger.rekey(now, worker, change)
  local backend = pools.id(change.backend)
  local lane = backend and lane_of(worker, backend, change)
  local known = lane and state.get('lanes', lane)
  if known then
    move(now, lane, known, rekeyed(known, key_of(change)), lines.arrival(known))
  end
end

-- A ticket waits in the lane no more.
local function shorten(lane, ticket)
  local known = state.get('lanes', lane)
  queues.remove(lane, ticket)
  crowds.count(known.backend, known.tenant, -1)
  if known.waiting == 1 then
    lines.remove(known)
    overdue.remove(lane, known)
    state.put('lanes', lane, false)
    turns.leave(line_of(known))
    return
  end
  local _, arrival = queues.first(lane)
  if arrival ~= lines.arrival(known) then
    lines.remove(known)
    lines.add(lane, known, arrival)
  end
  known.waiting = known.waiting - 1
  state.put('lanes', lane, known)
end

local function free(now, ticket, release)
  local claim = state.get('tickets', ticket)
  if not claim then
    return
  end
  state.put('tickets', ticket, false)
  local worker, number = ledger.parts(ticket)
  redis.call('ZREM', state.key('held by', worker), number)
  if not claim.granted_s then
    shorten(claim.lane, ticket)
  elseif claim.share then
    local share, failed = claim.share, release.failure ~= nil
    turns.settle(now, claim.backend, share, not failed and now - claim.granted_s or nil)
    if share.tokens > 0 and (failed or release.usage) then
      ceilings.count(now, claim.backend, share, claim.granted_s, release.usage, failed)
    end
  end
  if pools.free(now, ticket, claim, release) then
    ledger.ripen(claim.backend)
  end
end

function ledger.release(now, worker, change)
  free(now, ledger.ticket(worker, change.ticket), change)
end

-- Release all tickets of a worker, in their order.
function ledger.release_all(now, worker)
  for _, ticket in ipairs(redis.call('ZRANGE', state.key('held by', worker), 0, -1)) do
    free(now, ledger.ticket(worker, ticket), { usage = {}, well = false })
  end
end

local function measure(now, ticket, usage)
  local pending = pools.measure(now, ticket, usage)
  if not pending then
    return
  end
  local share = pending.share
  if share and share.tokens > 0 then
    ceilings.count(now, pending.backend, share, pending.attempt.granted_s, usage, false)
  end
  ledger.ripen(pending.backend)
end

function ledger.measure(now, worker, change)
  measure(now, ledger.ticket(worker, change.ticket), change.usage)
end

-- Stop waiting for tokens that have not become known for a minute.
function ledger.expire(now)
  for _, ticket in ipairs(pools.unmeasured_since(now)) do
    measure(now, ticket, {})
  end
end

-- Grant a slot to a ticket of the backlog.
local function take(now, ticket, reason)
  local waits = state.get('tickets', ticket)
  local share = turns.charge(now, line_of(state.get('lanes', waits.lane)))
  shorten(waits.lane, ticket)
  report(ticket, pools.hold(now, ticket, waits, reason, share, true))
end

function ledger.force(now, worker, change)
  local ticket = ledger.ticket(worker, change.ticket)
  local claim = state.get('tickets', ticket)
  if claim and not claim.granted_s then
    take(now, ticket, 'cycle')
  end
end

function ledger.configure(now, _, change)
  local backend, waits = pools.configure(now, change.settings)
  if waits then
    ledger.ripen(backend.id)
  end
end

-- grants ---------------------------------------------------------------------------------

-- Grant one ticket of the backend. Return whether it did; else when time alone allows a grant, nil for never.
local function settle_one(backend, now)
  if backend.waiting == 0 or backend.holding >= backend.limit then
    return false, nil
  end
  ceilings.take_back(now, backend.id)
  local ready_s = pauses.ready_s(backend.pause, backend.granted, backend.limit)
  if now < ready_s and lines.next(backend.id) then
    return false, ready_s
  end
  local lane, reason = selection.next(now, backend)
  if not lane then -- all waiting tenants are at limits of their own
    return false, ceilings.back(backend.id)
  end
  local ticket = queues.first(lane)
  if backend.rates then
    ready_s = capacity.ready_s(backend, now, state.get('tickets', ticket).estimate)
    if now < ready_s then -- it keeps its place: no ticket overtakes it
      return false, ready_s
    end
  end
  take(now, ticket, reason)
  return true, nil
end

-- Grant all that can be granted; return when time alone allows the next grant, nil for never.
function ledger.settle(now)
  local index, wake_s = 1, nil
  while ripe[index] do
    local took, ready_s = settle_one(pools.get(ripe[index]), now)
    if took then
      index, wake_s = 1, nil
    elseif ready_s then
      index, wake_s = index + 1, wake_s and math.min(wake_s, ready_s) or ready_s
    else
      ripen_not(index)
    end
  end
  return wake_s
end
