-- The ledger's values, by kind and id: each kind is a hash of the server, each value a packed table.
-- A value is read once per call, and written at its end (`state.commit`). Every key begins with KEYS[1],
-- whose hash tag keeps all of them on one node of a cluster. Names of users are fields, values, members, or
-- the last part of a key: they can be mistaken for nothing else.

local PREFIX = KEYS[1]
local MOST = 500 -- fields per command; Lua bounds the values that `unpack` gives
local known, changed = {}, {}

-- The key of an index, of what it is about.
function state.key(name, of, more)
  if more then
    return PREFIX .. name .. ':' .. of .. ':' .. more
  end
  return of and PREFIX .. name .. ':' .. of or PREFIX .. name
end

-- The value; false if there is none.
function state.get(kind, id)
  local values = known[kind]
  if not values then
    values = {}
    known[kind] = values
  end
  local value = values[id]
  if value == nil then
    local packed = redis.call('HGET', PREFIX .. kind, id)
    value = packed and cmsgpack.unpack(packed)
    values[id] = value
  end
  return value
end

-- Read the values of several ids by one command.
function state.load(kind, ids)
  if #ids == 0 then
    return
  end
  local values = known[kind] or {}
  known[kind] = values
  local packed = redis.call('HMGET', PREFIX .. kind, unpack(ids))
  for index, id in ipairs(ids) do
    if values[id] == nil then
      values[id] = packed[index] and cmsgpack.unpack(packed[index])
    end
  end
end

-- Set the value; false removes it. Ids are text, also those that are numbers.
function state.put(kind, id, value)
  if not known[kind] then
    known[kind] = {}
  end
  known[kind][id] = value
  if not changed[kind] then
    changed[kind] = {}
  end
  changed[kind][id] = true
end

-- The ids of a kind whose values this call has set.
function state.changed(kind)
  local ids = {}
  for id in pairs(changed[kind] or {}) do
    ids[#ids + 1] = id
  end
  return ids
end

-- A counter: 0 if it was never set.
function state.count(name)
  return state.get('counts', name) or 0
end

function state.set_count(name, number)
  state.put('counts', name, number ~= 0 and number)
end

local function send(command, kind, arguments)
  for first = 1, #arguments, MOST do
    redis.call(command, PREFIX .. kind, unpack(arguments, first, math.min(first + MOST - 1, #arguments)))
  end
end

function state.commit()
  for kind, ids in pairs(changed) do
    local set, removed = {}, {}
    for id in pairs(ids) do
      local value = known[kind][id]
      if value then
        set[#set + 1] = id
        set[#set + 1] = cmsgpack.pack(value)
      else
        removed[#removed + 1] = id
      end
    end
    send('HSET', kind, set)
    send('HDEL', kind, removed)
  end
  changed = {}
end

-- All values of a kind, by id, with those of this call. Ids come in no order.
function state.all(kind)
  local found = {}
  local fields = redis.call('HGETALL', PREFIX .. kind)
  for index = 1, #fields, 2 do
    found[fields[index]] = cmsgpack.unpack(fields[index + 1])
  end
  for id, value in pairs(known[kind] or {}) do
    found[id] = value or nil
  end
  return found
end
