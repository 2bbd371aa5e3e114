-- Workers, their leases, and what they have not been told. A worker is one client of the ledger. Its lease is
-- that of all its tickets: each call renews it, and when it has ended, any call takes its tickets.

local function channel(worker)
  return state.key('granted', worker)
end

-- Return the number of a new worker. Its token tells it from others of its number, after a server has lost
-- all that it knew and counts from 1 again.
function leases.register(name, token)
  local worker = state.count('workers') + 1
  state.set_count('workers', worker)
  state.put('tokens', token, worker)
  state.put('workers', numbers.text(worker), { name = name, token = token, told = 0, batch = 0 })
  return worker
end

-- The number of the worker that registered with a token; false if none did. Its answer may have been lost.
function leases.known(token)
  return state.get('tokens', token)
end

local function get(worker)
  return state.get('workers', numbers.text(worker))
end

-- The worker of that token; false if its lease has ended, or it never was.
function leases.get(worker, token)
  local own = get(worker)
  return own and own.token == token and own
end

function leases.renew(worker, until_s)
  local own = get(worker)
  own.until_s = until_s
  state.put('workers', numbers.text(worker), own)
  redis.call('ZADD', state.key('leases'), numbers.text(until_s), worker)
end

-- Whether a worker knows of more than the server: of a batch before this one, or of news.
function leases.is_ahead(worker, batch, heard)
  local own = get(worker)
  if batch > own.batch + 1 then
    return true
  end
  return heard > own.told and heard > own.told + redis.call('LLEN', state.key('news', worker))
end

-- How many workers have a lease.
function leases.number()
  return redis.call('ZCARD', state.key('leases'))
end

-- Remove a worker with all that is its.
function leases.remove(now, worker)
  ledger.release_all(now, worker)
  redis.call('ZREM', state.key('leases'), worker)
  redis.call('DEL', state.key('news', worker))
  state.put('tokens', get(worker).token, false)
  state.put('workers', numbers.text(worker), false)
end

-- Remove the workers whose lease has ended, in their order.
function leases.expire(now)
  local ended = redis.call('ZRANGEBYSCORE', state.key('leases'), '-inf', numbers.text(now))
  for index, worker in ipairs(ended) do
    ended[index] = tonumber(worker)
  end
  table.sort(ended)
  for _, worker in ipairs(ended) do
    leases.remove(now, worker)
    redis.call('PUBLISH', channel(worker), 'lost')
  end
end

-- Forget what a worker has heard: its first `told` news.
function leases.heard(worker, told)
  local own = get(worker)
  if told > own.told then
    redis.call('LTRIM', state.key('news', worker), told - own.told, -1)
    own.told = told
    state.put('workers', numbers.text(worker), own)
  end
end

-- Add grants to the news of their workers, and wake the others of them. A message may be lost: the news stay
-- until a call of the worker says that it has heard them.
function leases.tell(grants, except)
  local others = {}
  for _, pair in ipairs(grants) do
    local ticket, grant = pair[1], pair[2]
    local worker, number = ledger.parts(ticket)
    if get(worker) then
      local share = grant.share
      local text = numbers.json({
        number,
        grant.reason,
        grant.asked_s,
        grant.granted_s,
        grant.concurrency,
        grant.slots,
        grant.arrival,
        grant.replica or '',
        share and { share.level, share.tenant, share.charge_s, share.weight, share.tokens } or {},
      })
      redis.call('RPUSH', state.key('news', worker), text)
      if worker ~= except then
        others[worker] = (others[worker] or 0) + 1
      end
    end
  end
  for worker, count in pairs(others) do
    redis.call('PUBLISH', channel(worker), count)
  end
end

-- Add to the news of a worker that tickets may not wait.
function leases.refuse(worker, refusals)
  for _, refusal in ipairs(refusals) do
    local ticket, backend, crowd = refusal[1], refusal[2], refusal[3]
    local text = numbers.json({ ticket, 'refused', backend, crowd.tenant, crowd.waiting, crowd.limit })
    redis.call('RPUSH', state.key('news', worker), text)
  end
end

-- The news of a worker that it has not heard, as JSON.
function leases.news(worker)
  return '[' .. table.concat(redis.call('LRANGE', state.key('news', worker), 0, -1), ',') .. ']'
end
