-- The waiting tickets of each lane, in arrival order: `queues.py`.

function queues.add(lane, arrival, ticket)
  redis.call('ZADD', state.key('queue', lane), arrival, ticket)
end

function queues.remove(lane, ticket)
  redis.call('ZREM', state.key('queue', lane), ticket)
end

-- The first waiting ticket of a lane, and its arrival number.
function queues.first(lane)
  local entry = redis.call('ZRANGE', state.key('queue', lane), 0, 0, 'WITHSCORES')
  return entry[1], tonumber(entry[2])
end
