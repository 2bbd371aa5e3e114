-- The settings that all workers share: the bound of waiting, exploration, and the tenants.

local FIELDS = {
  overdue = { 'max_wait_s', 'every' },
  exploration = { 'epsilon', 'seed' },
  tenants = { 'weight', 'max_slots', 'max_queued', 'tokens_per_minute' },
}

local function same(name, one, other)
  if not one or not other then
    return not one and not other
  end
  for _, field in ipairs(FIELDS[name]) do
    if one[field] ~= other[field] then
      return false
    end
  end
  return true
end

-- Index the lanes and lines anew, whose places depend on which tenants have limits.
local function index(now, replace_tenants)
  local lanes, found = state.all('lanes'), state.all('lines')
  for lane, known in pairs(lanes) do
    overdue.remove(lane, known)
  end
  replace_tenants()
  for _, claim in pairs(state.all('tickets')) do
    local share = claim.share
    if share then
      ceilings.count_held(claim.backend, share.tenant)
    end
  end
  for lane, known in pairs(lanes) do
    overdue.add(lane, known)
    crowds.count(known.backend, known.tenant, known.waiting)
  end
  for id in pairs(found) do
    local backend, tenant = string.match(id, '^(%d+):%-?%d+:(.*)$')
    ceilings.place(now, backend, tenant)
  end
  for number = 1, state.count('backends') do
    local id = numbers.text(number)
    if pools.get(id).waiting > 0 then
      ledger.ripen(id)
    end
  end
end

-- Take over settings; return the names of those that are others than before.
function settings.take(now, given)
  local changed = {}
  for _, name in ipairs({ 'overdue', 'exploration' }) do
    if not same(name, state.get('settings', name), given[name]) then
      state.put('settings', name, given[name] or false)
      changed[#changed + 1] = name
    end
  end
  local before = state.all('tenants')
  local after = given.tenants or {}
  local differs = false
  for name in pairs(before) do
    differs = differs or not after[name]
  end
  for name, own in pairs(after) do
    differs = differs or not same('tenants', before[name], own)
  end
  if differs then
    changed[#changed + 1] = 'tenants'
    index(now, function()
      for name in pairs(before) do
        state.put('tenants', name, after[name] or false)
      end
      for name, own in pairs(after) do
        state.put('tenants', name, own)
      end
      ceilings.forget_held()
      crowds.forget()
    end)
  end
  return changed
end
