-- How many calls a backend serves well at once: `auto.py`. `found` is the limit and the search for it.

local SHORTEST, PATIENCE, LEAST_PATIENCE, MOST_PATIENCE, UPWARDS = 8, 6, 2, 64, 8
local PAUSES, CHEAP, TYPICAL = 32, 4.0, 16
local TOO_BUSY = { [429] = true, [503] = true, [529] = true, [408] = true, [504] = true }
local replace, NONE = numbers.replace, numbers.NONE

local function no_success()
  return { weight = 0.0, bound = 0, samples = {} }
end

-- A limit of which nothing is known.
function auto.found(limit)
  return {
    limit = limit,
    ceiling = math.huge,
    refused = false,
    since_s = -math.huge,
    cut_s = -math.huge,
    sure = true,
    clean = 0,
    up_at = PATIENCE,
    down_at = LEAST_PATIENCE,
    up_patience = PATIENCE,
    down_patience = LEAST_PATIENCE,
    shift_at = 0,
    step = math.huge,
    up_after_s = -math.huge,
    far = false,
    samples = {},
    settled = false,
    doubted = false,
    typical_s = 0.0,
    window = no_success(),
  }
end

-- Whether one more than the ceiling is tried.
function auto.trying(found)
  return found.refused and found.limit > found.ceiling
end

-- Whether too many calls may cause the failure.
function auto.too_busy(failure)
  return not failure.status or TOO_BUSY[failure.status] == true
end

local function moved(found, now, limit, before)
  return replace(found, {
    limit = math.floor(limit),
    since_s = now,
    window = no_success(),
    samples = {},
    settled = false,
    doubted = false,
    before = before or NONE,
  })
end

function auto.configured(found, bounds, now)
  local limit = math.min(math.max(found.limit, bounds.low), bounds.high)
  local before = found.before
  local within = not before or (bounds.low <= before.limit and before.limit <= bounds.high)
  if limit == found.limit and within then
    return found
  end
  return replace(moved(found, now, limit), { ceiling = math.huge, refused = false })
end

local function level(found)
  return { limit = found.limit, samples = found.samples }
end

-- A limit raised by the next step.
local function raised(found, bounds, now, before)
  local more = math.floor(math.min(found.limit, found.step))
  local up = moved(found, now, math.min(found.limit + more, bounds.high), before)
  return replace(up, { step = 2 * found.step })
end

-- The limit between two at which the engine's own queue begins; nil if it may be one of them.
local function between_of(before, own)
  local at, error = levels.knee(before, own)
  local found = numbers.round(at)
  if found < before.limit + math.max(1, math.floor(before.limit / 8)) then
    return nil
  end
  if at * (1.0 + levels.KNOWN * error) <= own.limit - math.max(1, math.floor(own.limit / 5)) then
    return found
  end
end

local next_

-- The limit while a raise or a try downwards goes on, or after it.
local function judged(found, bounds, now, before, bound, used)
  local limit = found.limit
  local up, own = limit > before.limit, level(found)
  if #own.samples == 0 then
    return found
  end
  local full = #own.samples >= levels.most(limit)
  local sure = full and 0.0 or levels.SURE
  local worth
  if up then
    worth = levels.worthwhile(before, own, sure)
  else
    worth = levels.worthwhile(own, before, sure)
  end
  local between = nil
  if up and bound then
    between = between_of(before, own)
  end
  if between and worth then -- is this limit worth more than the one between?
    return replace(moved(found, now, between, own), { ceiling = math.huge, refused = false })
  elseif between then
    found = replace(found, {
      ceiling = math.huge,
      refused = false,
      step = math.max(1, math.floor(between / 4)),
    })
    return moved(found, now, between, before)
  end
  if worth == nil then
    if not bound then
      return replace(moved(found, now, before.limit), { samples = before.samples, settled = true })
    end
    if not full then
      return found
    end
  end
  if not up and not worth then
    local shift_at = found.shift_at
    if limit < 0.75 * before.limit then
      shift_at = 0
    end
    found = replace(found, { ceiling = limit, refused = false, before = NONE, shift_at = shift_at })
    return replace(found, {
      down_at = found.clean + 1,
      down_patience = LEAST_PATIENCE,
      up_at = found.clean + PATIENCE,
    })
  end
  if not up then
    local patience = math.min(2 * found.down_patience, MOST_PATIENCE)
    found = replace(found, { down_at = found.clean + patience, down_patience = patience })
    return replace(moved(found, now, before.limit), { samples = before.samples, settled = true })
  end
  if worth then
    local changes = { before = NONE, ceiling = math.huge, up_patience = PATIENCE, clean = found.clean - 1 }
    return next_(replace(found, changes), bounds, now, bound, used)
  end
  local patience = math.min(2 * found.up_patience, UPWARDS)
  found = replace(found, {
    up_at = found.clean + patience,
    up_patience = patience,
    down_at = found.clean + LEAST_PATIENCE,
  })
  local back = moved(found, now, before.limit)
  return replace(back, {
    samples = before.samples,
    settled = true,
    ceiling = before.limit,
    refused = false,
    step = math.huge,
  })
end

-- The limit after a window: raised, tried, restored or unchanged.
function next_(found, bounds, now, bound, used)
  found = replace(found, { clean = found.clean + 1 })
  local limit, before = found.limit, found.before
  if before and before.limit > limit and not bound then
    return moved(found, now, before.limit)
  end
  if before and auto.trying(found) then
    if not bound then
      return found
    end
    return raised(replace(found, { ceiling = math.huge, refused = false }), bounds, now, before)
  end
  if before then
    return judged(found, bounds, now, before, bound, used)
  end
  if bound and limit < math.min(found.ceiling, bounds.high) then
    if found.ceiling < math.huge then
      local more = limit + math.max(1, math.floor(limit / 16))
      return moved(found, now, math.min(more, found.ceiling, bounds.high))
    end
    return found.settled and raised(found, bounds, now, level(found)) or found
  end
  if #found.samples == 0 then
    return found
  end
  if bound and found.clean >= found.up_at and now >= found.up_after_s and limit < bounds.high then
    local more = 1
    if not found.refused then
      more = math.max(1, math.floor(limit / (found.far and 2 or 8)))
    end
    found = replace(found, { up_at = found.clean + found.up_patience, far = not found.far })
    return moved(found, now, math.min(limit + more, bounds.high), level(found))
  end
  used = math.min(limit, used)
  local less = math.max(bounds.low, used - math.max(1, math.floor(used / 5)))
  if found.clean >= found.down_at and less < used and (bound or less >= bounds.start) then
    return moved(found, now, less, level(found))
  end
  return found
end

-- The limit when calls take `shift` times as long as before, for two windows.
local function shifted(found, bounds, now, shift, samples, bound, used)
  found = replace(found, { clean = found.clean + 1 })
  local less = math.max(bounds.low, math.ceil(used / shift))
  if shift > 1.0 and less < used and found.clean >= found.shift_at then
    found = replace(found, { shift_at = found.clean + MOST_PATIENCE })
    return moved(found, now, less, { limit = found.limit, samples = samples })
  end
  found = replace(found, { samples = samples, doubted = false })
  if shift > 1.0 or found.refused then
    return found
  end
  return next_(replace(found, { ceiling = math.huge, up_patience = PATIENCE }), bounds, now, bound, used)
end

-- The last `count` of both lists.
local function latest(one, other, count)
  local all = {}
  for _, samples in ipairs({ one, other }) do
    for _, own in ipairs(samples) do
      all[#all + 1] = own
    end
  end
  local kept = {}
  for index = math.max(1, #all - count + 1), #all do
    kept[#kept + 1] = all[index]
  end
  return kept
end

function auto.succeeded(found, bounds, now, success)
  if success.granted_s < found.since_s then
    return found
  end
  local window, seconds = found.window, math.max(success.seconds, 1e-6)
  local typical_s = found.typical_s ~= 0 and found.typical_s or seconds
  local weight = window.weight + math.min(1.0, math.max(0.02, CHEAP * seconds / typical_s))
  local most_s = math.min(seconds, CHEAP * typical_s)
  typical_s = typical_s + (most_s - typical_s) * most_s / (most_s + TYPICAL * typical_s)
  if math.floor(weight) == math.floor(window.weight) then
    return replace(found, { typical_s = typical_s, window = replace(window, { weight = weight }) })
  end
  local bound = window.bound
  if success.waiting and success.in_use >= found.limit then
    bound = bound + 1
  end
  local samples = latest(window.samples, {
    {
      cached = success.cached,
      tokens = success.output_tokens or 0,
      seconds = seconds,
      in_use = success.in_use,
    },
  }, math.huge)
  if #samples < math.max(SHORTEST, found.limit) then
    window = { weight = weight, bound = bound, samples = samples }
    return replace(found, { typical_s = typical_s, window = window })
  end
  found = replace(found, { window = no_success(), typical_s = typical_s, sure = true })
  local used, is_bound = 0, 2 * bound >= #samples
  for _, own in ipairs(samples) do
    used = math.max(used, own.in_use)
  end
  local shift = nil
  if not found.before then
    shift = levels.slowdown(found.samples, samples)
  end
  if shift then
    if not found.doubted then
      return replace(found, { doubted = true, clean = found.clean + 1 })
    end
    return shifted(found, bounds, now, shift, samples, is_bound, used)
  end
  local kept = found.settled and latest(found.samples, samples, levels.most(found.limit)) or {}
  found = next_(replace(found, { samples = kept, doubted = false }), bounds, now, is_bound, used)
  if found.since_s == now then
    return found
  end
  return replace(found, { settled = true })
end

-- The limit after an attempt that found the backend too busy.
function auto.refused(found, bounds, now, refusal)
  if refusal.granted_s < found.cut_s then
    return found
  end
  local limit, before, served = found.limit, found.before, refusal.concurrency - 1
  local tried = auto.trying(found)
  found = replace(moved(found, now, limit), { cut_s = now })
  if limit <= bounds.low then
    return found
  end
  local up_after_s = now + PAUSES * refusal.pause_s
  if tried and before and served >= before.limit then
    found = replace(found, {
      limit = before.limit,
      samples = before.samples,
      settled = true,
      step = math.huge,
    })
    return replace(found, { up_at = found.clean + PATIENCE, up_after_s = up_after_s })
  end
  local new
  if found.sure or (before and before.limit <= served) then
    new = math.max(served, math.floor(limit / 2))
  else
    new = math.min(served, math.floor(3 * limit / 4))
  end
  new = math.max(bounds.low, math.min(new, limit - 1))
  return replace(found, {
    limit = new,
    ceiling = math.max(new, served),
    refused = true,
    sure = false,
    clean = 0,
    shift_at = 0,
    step = 2,
    up_at = PATIENCE,
    down_at = math.max(PATIENCE, found.down_patience),
    up_patience = PATIENCE,
    up_after_s = up_after_s,
  })
end
