-- When a backend's rates admit the next call: `rates.py`. Limits, and what counts against them, go by kind.

local MINUTE, DAY = { 1.0, 60.0 }, { 900.0, 86400.0 }
local INPUT_PRIOR, OUTPUT_PRIOR = { 1.0, 1.0, 1.0 }, { 2.0, 6.0, 24.0 }
local KINDS = { 'requests', 'requests_a_day', 'tokens', 'input', 'output' }
local IN = { tokens = true, input = true }
local OUT = { tokens = true, output = true }
local COUNTED = { requests = true, requests_a_day = true }

-- what counts ------------------------------------------------------------------------------

function rates.nothing_spent()
  return {
    since_s = math.huge,
    requests = cells.empty(),
    day = cells.empty(),
    input = cells.empty(),
    output = cells.empty(),
    input_flight = reserves.nothing_in_flight(),
    output_flight = reserves.nothing_in_flight(),
    input_learned = reserves.nothing_learned(),
    output_learned = reserves.nothing_learned(),
    told = {},
    held = {},
  }
end

-- The state under new rates; nil without a limit.
function rates.configured(spent, limits, now, holding)
  if not limits then
    return nil
  end
  spent = spent or rates.nothing_spent()
  if not limits.tokens and not limits.input and not limits.output then
    return numbers.replace(rates.nothing_spent(), {
      requests = spent.requests,
      day = spent.day,
      told = spent.told,
      held = spent.held,
    })
  end
  if spent.since_s < math.huge then
    return spent
  end
  return numbers.replace(spent, { since_s = holding > 0 and numbers.next_after(now) or now })
end

local function windows(spent, kind)
  local held = spent.held[kind] or cells.empty()
  if kind == 'requests' then
    return { spent.requests, held }
  elseif kind == 'requests_a_day' then
    return { spent.day, held }
  elseif kind == 'tokens' then
    return { spent.input, spent.output, held }
  end
  return { kind == 'input' and spent.input or spent.output, held }
end

local function mean(learned)
  if learned.calls > 0 then
    return learned.means[3] / learned.means[1]
  end
  return 1.0
end

-- What the calls in flight count beside the cells, with what a new one adds to both.
local function reserved(spent, kind, new)
  local sum = 0.0
  if IN[kind] then
    local flight, learned = spent.input_flight, spent.input_learned
    if new then
      flight = reserves.plus(flight, new.input_tokens, 1)
      sum = sum + new.input_tokens
    end
    if learned.largest > 1.0 then
      local most = learned.largest * flight.tokens
      local bound = math.min(reserves.reserve(learned, flight, INPUT_PRIOR), most)
      sum = sum + math.max(0.0, bound - flight.tokens)
    end
  end
  if OUT[kind] then
    local flight = spent.output_flight
    if new then
      flight = reserves.plus(flight, new.output_tokens, 1)
    end
    sum = sum + reserves.reserve(spent.output_learned, flight, OUTPUT_PRIOR)
  end
  return sum
end

local function expected(spent, kind, estimate)
  local sum = 0.0
  if IN[kind] then
    sum = sum + estimate.input_tokens
  end
  if OUT[kind] then
    sum = sum + estimate.output_tokens * mean(spent.output_learned)
  end
  return sum
end

local function earlier(one, other)
  if one[1] ~= other[1] then
    return one[1] < other[1]
  end
  return one[2] < other[2]
end

-- When one limit admits a call; infinity if time alone does not help.
local function ready_s(spent, kind, limit, now, estimate)
  local told = spent.told[kind]
  if told and told < limit then
    limit = told
  end
  local window = kind == 'requests_a_day' and DAY or MINUTE
  local size_s, span_s = window[1], window[2]
  local first = math.floor((now - span_s) / size_s)
  local counted, used = {}, 0
  for _, window_cells in ipairs(windows(spent, kind)) do
    if window_cells.numbers[1] then
      local own = cells.since(window_cells, first)
      counted[#counted + 1] = own
      used = used + cells.total(own)
    end
  end
  local more = reserved(spent, kind, estimate)
  local over = used + more + (COUNTED[kind] and 1 or 0) - limit
  if over <= 0.0 then
    return now
  end
  local flying = reserved(spent, kind) > 0.0
  if not flying then
    if used <= 0.0 then
      return now
    end
    if OUT[kind] and 2 * more > limit then
      over = used + expected(spent, kind, estimate) - limit
      if over <= 0.0 then
        return now
      end
    end
  end
  local pairs_ = {}
  for _, own in ipairs(counted) do
    for index, number in ipairs(own.numbers) do
      pairs_[#pairs_ + 1] = { number, own.amounts[index] }
    end
  end
  table.sort(pairs_, earlier)
  local ready = now
  for _, pair in ipairs(pairs_) do
    ready, over = (pair[1] + 1) * size_s + span_s, over - pair[2]
    if over <= 0.0 then
      return ready
    end
  end
  return flying and math.huge or ready
end

-- When the rates admit a call; at most `now` if they admit it now.
function rates.ready_s(spent, limits, now, estimate)
  local ready = -math.huge
  for _, kind in ipairs(KINDS) do
    if limits[kind] then
      ready = math.max(ready, ready_s(spent, kind, limits[kind], now, estimate))
    end
  end
  if ready == math.huge then
    return now + (MINUTE[1] + MINUTE[2])
  end
  return ready
end

function rates.granted(spent, now, estimate)
  local cell = math.floor(now)
  local first = cell - 60
  local counted = {
    requests = cells.plus(cells.since(spent.requests, first), cell, 1),
    day = cells.plus(cells.since(spent.day, math.floor((now - DAY[2]) / DAY[1])), math.floor(now / DAY[1]), 1),
  }
  if now < spent.since_s then
    return numbers.replace(spent, counted)
  end
  counted.input = cells.plus(cells.since(spent.input, first), cell, estimate.input_tokens)
  counted.input_flight = reserves.plus(spent.input_flight, estimate.input_tokens, 1)
  counted.output_flight = reserves.plus(spent.output_flight, estimate.output_tokens, 1)
  counted.input_learned = reserves.begun(spent.input_learned, now)
  counted.output_learned = reserves.begun(spent.output_learned, now)
  return numbers.replace(spent, counted)
end

local function some(tokens)
  return tokens ~= 0 and tokens or nil
end

-- The state after the end of a call, when its tokens are known or never will be.
function rates.released(spent, now, granted_s, estimate, usage)
  if not spent or spent.since_s == math.huge then
    return spent
  end
  local used_in, used_out = usage.prompt_tokens, usage.output_tokens
  local cell, first = math.floor(granted_s), math.floor(now) - 60
  local changes = {}
  if used_in and cell >= first then
    local correction = math.max(used_in, 0)
    if granted_s >= spent.since_s then
      correction = correction - estimate.input_tokens
    end
    changes.input = cells.plus(cells.since(spent.input, first), cell, correction)
  end
  local learned, counted = spent.output_learned, nil
  if used_out then
    counted = math.max(used_out, 0)
  else
    counted = numbers.round(estimate.output_tokens * mean(learned))
  end
  if counted ~= 0 then
    changes.output = cells.plus(cells.since(spent.output, first), math.floor(now), counted)
  end
  if granted_s < spent.since_s then
    return numbers.replace(spent, changes)
  end
  local input, output = estimate.input_tokens, estimate.output_tokens
  changes.input_flight = reserves.plus(spent.input_flight, input, -1)
  changes.output_flight = reserves.plus(spent.output_flight, output, -1)
  changes.input_learned = reserves.ended(spent.input_learned, granted_s, now, input, some(used_in))
  changes.output_learned = reserves.ended(learned, granted_s, now, output, some(used_out))
  return numbers.replace(spent, changes)
end

-- what a provider told ---------------------------------------------------------------------

local function tightened(spent, limits, kind, now, quota)
  local limit = limits[kind]
  if not limit then
    return spent
  end
  if quota.limit then
    spent = numbers.replace(spent, { told = numbers.replace(spent.told, { [kind] = quota.limit }) })
    limit = math.min(limit, quota.limit)
  end
  if not quota.remaining or quota.reset_s <= 0.0 then
    return spent
  end
  local window = kind == 'requests_a_day' and DAY or MINUTE
  local size_s, span_s = window[1], window[2]
  local first, cell = math.floor((now - span_s) / size_s), math.floor(now / size_s)
  local used = 0
  for _, own in ipairs(windows(spent, kind)) do
    used = used + cells.total(cells.since(own, first))
  end
  used = used + reserved(spent, kind)
  local foreign = limit - used - quota.remaining
  if foreign < 1 then
    return spent
  end
  foreign = math.floor(foreign)
  local held = cells.since(spent.held[kind] or cells.empty(), first)
  local parts = 1
  if quota.reset_s <= span_s then
    parts = math.floor(quota.reset_s / size_s) + 1
  end
  local start = first
  if parts == 1 and quota.reset_s > span_s then
    start = cell
  end
  local before = 0
  for index = 0, parts - 1 do
    local part = numbers.whole(foreign * (index + 1), parts)
    if part > before then
      held = cells.plus(held, start + index, part - before)
    end
    before = part
  end
  return numbers.replace(spent, { held = numbers.replace(spent.held, { [kind] = held }) })
end

function rates.corrected(spent, limits, now, quotas)
  if not spent or not limits then
    return spent
  end
  for _, kind in ipairs({ 'requests', 'tokens', 'input', 'output' }) do
    local quota = quotas[kind]
    if quota then
      spent = tightened(spent, limits, kind, now, quota)
      if kind == 'requests' and quota.reset_s > MINUTE[2] then -- it may speak of the day
        spent = tightened(spent, limits, 'requests_a_day', now, quota)
      end
    end
  end
  return spent
end
