-- One call of a worker: apply its changes, then grant all that can be granted. ARGV[1] is
-- the command, ARGV[2] are the changes.

local DO = {
  request = ledger.request,
  rekey = ledger.rekey,
  release = ledger.release,
  measure = ledger.measure,
  force = ledger.force,
  configure = ledger.configure,
}
local command, changes = cjson.decode(ARGV[1]), cjson.decode(ARGV[2])

-- Before anything is changed: a request of an unknown backend is an error of its caller.
local function unknown_backend()
  local named = {}
  for _, own in ipairs(command.backends or {}) do
    named[own.name] = true
  end
  for _, change in ipairs(changes) do
    if change.change == 'configure' then
      named[change.settings.name] = true
    elseif change.change == 'request' and not named[change.backend] and not pools.id(change.backend) then
      return change.backend
    end
  end
end

local known = not command.worker or leases.get(command.worker, command.token)
local unknown = known and unknown_backend()
if unknown then
  return numbers.json({ unknown = unknown })
end

local now = command.now
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) + tonumber(time[2]) / 1e6
end
now = math.max(now, state.count('now')) -- a server's clock may be set back
state.put('counts', 'now', now)

ledger.expire(now)
leases.expire(now)
local worker, others = command.worker or leases.known(command.token), {} -- settings that it changed for others
if not worker then
  worker = leases.register(command.name, command.token)
  -- A worker whose lease had ended brings its settings again: they count only if the server has lost them.
  local fresh = not state.get('settings', 'overdue')
  local restarted = command.again and fresh
  if not command.again or restarted then
    others = settings.take(now, command.settings)
    others = fresh and {} or others
  end
  for _, own in ipairs(command.backends) do
    local id = pools.id(own.name)
    if not command.again or not id then
      local before = id and (pools.get(id).slots or 'auto')
      ledger.configure(now, worker, { settings = own })
      local after = pools.get(pools.id(own.name)).slots or 'auto'
      if id and before ~= after then
        others[#others + 1] = string.format('slots of %s: %s before, %s now', own.name, before, after)
      end
    end
    if restarted then -- other workers hold slots that the server has forgotten: they come within their leases
      pools.close(now, own.name, now + command.lease_s)
    end
  end
end
local own = leases.get(worker, command.token)
if own and leases.is_ahead(worker, command.batch, command.heard) then
  -- The server has come back with older data: what it does not know is held nevertheless. Nothing is granted
  -- until other workers have had the time to find this out, too.
  leases.remove(now, worker)
  own = false
  for _, backend in pairs(state.all('backends')) do
    pools.close(now, backend.name, now + command.lease_s)
  end
end
if own then
  leases.renew(worker, now + command.lease_s)
  leases.heard(worker, command.heard)
  if command.batch > own.batch then -- else its answer was lost, and it is sent again
    own.batch = command.batch
    for _, change in ipairs(changes) do
      DO[change.change](now, worker, change)
    end
  end
  leases.refuse(worker, ledger.refused())
  if command.close then
    leases.remove(now, worker)
    own = false
  end
end
local wake_s = ledger.settle(now)
leases.tell(ledger.granted(), worker)
local levels = {}
for _, id in ipairs(state.changed('backends')) do
  local backend = pools.get(id)
  levels[#levels + 1] = { backend.name, backend.limit, backend.pause.opens_s, backend.holding, backend.waiting }
end
state.commit()
return '{"answer":'
  .. numbers.json({ worker = worker, now = now, lost = not own, workers = leases.number(), wake_s = wake_s, others = others })
  .. ',"until_s":'
  .. numbers.json(now + command.lease_s)
  .. ',"told":'
  .. numbers.json(own and own.told or 0)
  .. ',"levels":'
  .. numbers.json(levels)
  .. ',"news":'
  .. (own and leases.news(worker) or '[]')
  .. '}'
