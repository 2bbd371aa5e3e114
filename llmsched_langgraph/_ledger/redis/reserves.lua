-- An upper bound of the tokens that the calls in flight use: `reserves.py`.

local DEVIATIONS, MEMORY, FEW, TRUSTED, MOST_SKEWED = 4.0, 512, 4, 64, 3.0
local COHORT_S, COHORTS = 8.0, 32
local HALF = 2 ^ 26

local function no_moments()
  return { 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0 }
end

function reserves.nothing_in_flight()
  return { calls = 0, tokens = 0, squares = 0, cubes = 0, more_cubes = 0 }
end

-- These and one with this estimate; `calls` = -1 removes it. Sums of cubes exceed 2^53, above which a double
-- is no exact count: they are kept in two parts, `more_cubes` in units of 2^26.
function reserves.plus(flight, estimate, calls)
  local square = estimate * estimate
  local high = math.floor(square / HALF)
  local low = (square - high * HALF) * estimate
  local carried = math.floor(low / HALF)
  local cubes = flight.cubes + calls * (low - carried * HALF)
  local more_cubes = flight.more_cubes + calls * (high * estimate + carried)
  local over = math.floor(cubes / HALF)
  return {
    calls = flight.calls + calls,
    tokens = flight.tokens + calls * estimate,
    squares = flight.squares + calls * square,
    cubes = cubes - over * HALF,
    more_cubes = more_cubes + over,
  }
end

function reserves.nothing_learned()
  return { calls = 0, means = no_moments(), largest = 1.0, cohorts = {} }
end

local function absorbed(learned)
  local first = learned.cohorts[1]
  local rest = {}
  for index = 2, #learned.cohorts do
    rest[index - 1] = learned.cohorts[index]
  end
  if first.ended == 0 then
    return numbers.replace(learned, { cohorts = rest })
  end
  local calls, means = learned.calls + first.ended, {}
  for index, old in ipairs(learned.means) do
    means[index] = old + (first.sums[index] - first.ended * old) / calls
  end
  local faded = 1.0 + (learned.largest - 1.0) * (1.0 - 1.0 / MEMORY) ^ first.ended
  return {
    calls = math.min(calls, MEMORY),
    means = means,
    largest = math.max(first.largest, faded),
    cohorts = rest,
  }
end

local function cohort_of(number)
  return { number = number, flying = 1, ended = 0, sums = no_moments(), largest = 0.0 }
end

local function copied(cohorts)
  local copy = {}
  for index, cohort in ipairs(cohorts) do
    copy[index] = cohort
  end
  return copy
end

function reserves.begun(learned, now)
  local number, cohorts = math.floor(now / COHORT_S), copied(learned.cohorts)
  local last = cohorts[#cohorts]
  if last and last.number >= number then
    cohorts[#cohorts] = numbers.replace(last, { flying = last.flying + 1 })
    return numbers.replace(learned, { cohorts = cohorts })
  end
  cohorts[#cohorts + 1] = cohort_of(number)
  local known = numbers.replace(learned, { cohorts = cohorts })
  while #known.cohorts > COHORTS do
    known = absorbed(known)
  end
  return known
end

-- `tokens` is nil if they are unknown.
function reserves.ended(learned, granted_s, now, estimate, tokens)
  local cohorts, number = copied(learned.cohorts), math.floor(granted_s / COHORT_S)
  local index = 1
  while index <= #cohorts and cohorts[index].number < number do
    index = index + 1
  end
  local found = cohorts[index]
  local late = not found or found.number ~= number or found.flying == 0
  local cohort = late and cohort_of(number) or found
  if not tokens then
    cohort = numbers.replace(cohort, { flying = cohort.flying - 1 })
  else
    local s, x, t = math.max(now - granted_s, 1e-3), tokens / math.max(estimate, 1), tokens
    local sx, st = s * x, s * t
    local more = { s, s * s, sx, sx * x, sx * x * x, st, st * t, st * t * t }
    local total = {}
    for at, own in ipairs(cohort.sums) do
      total[at] = own + more[at]
    end
    cohort = {
      number = number,
      flying = cohort.flying - 1,
      ended = cohort.ended + 1,
      sums = total,
      largest = math.max(cohort.largest, x),
    }
  end
  if late then -- its cohort was learned from before it ended
    table.insert(cohorts, 1, cohort)
    return absorbed(numbers.replace(learned, { cohorts = cohorts }))
  end
  cohorts[index] = cohort
  local known = numbers.replace(learned, { cohorts = cohorts })
  while known.cohorts[1] and known.cohorts[1].flying == 0 do
    known = absorbed(known)
  end
  return known
end

-- A bound of the tokens of the calls in flight.
function reserves.reserve(learned, flight, prior)
  local calls, e1, e2 = flight.calls, flight.tokens, flight.squares
  local e3 = flight.more_cubes * HALF + flight.cubes
  if calls == 0 then
    return 0.0
  end
  local ended = learned.calls
  local s, ss, sx, sx2, sx3, st, st2, st3 = unpack(learned.means)
  local trust = 4.0 * math.max(0.0, 1.0 - ended / TRUSTED)
  local effective = ended > 0 and ended * s * s / ss or 0.0
  local rests_on = trust + effective
  local own, assumed = effective / rests_on, trust / rests_on
  local m1, m2, m3 = prior[1], prior[2], prior[3]
  if ended > 0 then
    m1 = own * sx / s + assumed * m1
    m2 = own * sx2 / s + assumed * m2
    m3 = own * sx3 / s + assumed * m3
  end
  if ended >= FEW then
    local t1 = st / s
    local t2 = own * st2 / s + assumed * 2.0 * t1 * t1
    local t3 = own * st3 / s + assumed * 6.0 * t1 * t1 * t1
    if t2 * m1 * m1 < m2 * t1 * t1 then
      m1, m2, m3, e1, e2, e3 = t1, t2, t3, calls, calls, calls
    end
  end
  local variance = math.max(m2 - m1 * m1, 0.0)
  local spread = math.sqrt(variance * (e2 + e1 * e1 / rests_on))
  if spread == 0 then
    return m1 * e1
  end
  local third = math.max(m3 - 3.0 * m1 * m2 + 2.0 * m1 * m1 * m1, 0.0) * e3
  local root = math.sqrt(variance * e2)
  local skewness = math.min(third / (root * root * root), MOST_SKEWED)
  return m1 * e1 + (DEVIATIONS + (DEVIATIONS * DEVIATIONS - 1.0) / 6.0 * skewness) * spread
end
