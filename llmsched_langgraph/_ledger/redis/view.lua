-- The whole state, as JSON. With ARGV[1] = 'indexes' also the sorted sets, for checks; with 'brief' only what
-- there is few of, whatever waits.

local FEW = { backends = true, found = true, counts = true, workers = true }

local function entries(...)
  return redis.call('ZRANGE', state.key(...), 0, -1, 'WITHSCORES')
end

local found = {}
for _, kind in ipairs({
  'backends', 'found', 'spent', 'lanes', 'tickets', 'lines', 'levels', 'served', 'counts', 'workers',
  'unmeasured', 'tenants', 'allowances', 'replicas',
}) do
  found[kind] = (ARGV[1] ~= 'brief' or FEW[kind]) and state.all(kind) or {}
end
if ARGV[1] == 'indexes' then
  local indexes = { queue = {}, ranks = {}, coming = {}, urgent = {}, turns = {}, resting = {}, due = {} }
  for lane in pairs(found.lanes) do
    indexes.queue[lane] = entries('queue', lane)
  end
  for line in pairs(found.lines) do
    for _, name in ipairs({ 'ranks', 'coming', 'urgent' }) do
      indexes[name][line] = entries(name, line)
    end
  end
  for level in pairs(found.levels) do
    indexes.turns[level] = entries('turns', level)
    indexes.resting[level] = entries('resting', level)
  end
  for backend in pairs(found.backends) do
    indexes.due[backend] = {}
    for _, group in ipairs(redis.call('SMEMBERS', state.key('dues', backend))) do
      for _, own in ipairs(entries('due', backend, group)) do
        table.insert(indexes.due[backend], own)
      end
    end
  end
  indexes.levels, indexes.back = {}, {}
  for backend in pairs(found.backends) do
    indexes.levels[backend] = entries('levels', backend)
    indexes.back[backend] = entries('back', backend)
  end
  indexes.tickets = {}
  for worker in pairs(found.workers) do
    indexes.tickets[worker] = entries('held by', worker)
  end
  indexes.leases = entries('leases')
  indexes.awaited = entries('awaited')
  found.indexes = indexes
end
return numbers.json(found)
