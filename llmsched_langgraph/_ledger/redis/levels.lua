-- How a backend serves at two limits: `levels.py`.

local WORTH, CHANGED, CERTAIN, FEWEST, MOST = 0.2, 1.3, 3.0, 8, 128
levels.SURE = 1.5
levels.KNOWN = 2.0

-- How many successes are kept at a limit.
function levels.most(limit)
  return math.max(MOST, 2 * limit)
end

local function sorted(values)
  local copy = {}
  for index, value in ipairs(values) do
    copy[index] = value
  end
  table.sort(copy)
  return copy
end

local function median(values)
  local data = sorted(values)
  local half = math.floor(#data / 2)
  if #data % 2 == 1 then
    return data[half + 1]
  end
  return (data[half] + data[half + 1]) / 2
end

-- The quartiles, as `statistics.quantiles(values, n=4)` has them.
local function quartiles(values)
  local data, found = sorted(values), {}
  local count = #data
  for index = 1, 3 do
    local at = numbers.whole(index * (count + 1), 4)
    at = math.min(math.max(at, 1), count - 1)
    local delta = index * (count + 1) - at * 4
    found[index] = (data[at] * (4 - delta) + data[at + 1] * delta) / 4
  end
  return found
end

local function mean_in_use(samples)
  local sum = 0
  for _, own in ipairs(samples) do
    sum = sum + own.in_use
  end
  return sum / #samples
end

-- By what share more slots were in use in the other ones.
local function more_of(one, other)
  return mean_in_use(other) / mean_in_use(one) - 1.0
end

-- Seconds before the first token, and for each token: a weighted least-squares fit.
local function line_of(samples)
  local n, x, y, xx, xy = 0.0, 0.0, 0.0, 0.0, 0.0
  local all_tokens = true
  for _, own in ipairs(samples) do
    local weight = 1.0 / (own.tokens + 1)
    n = n + weight
    x = x + weight * own.tokens
    y = y + weight * own.seconds
    xx = xx + weight * own.tokens * own.tokens
    xy = xy + weight * own.tokens * own.seconds
    all_tokens = all_tokens and own.tokens ~= 0
  end
  local spread = n * xx - x * x
  local pace = 0.0
  if spread > 1e-9 * n * xx then
    pace = (n * xy - x * y) / spread
  end
  local start = (y - pace * x) / n
  if pace <= 0.0 then
    return y / n, 0.0
  end
  if start <= 0.0 then
    return all_tokens and 0.0 or 1e-3, y / x
  end
  return start, pace
end

-- The median, and its standard deviation by the median deviation.
local function centre(values)
  local middle = median(values)
  local deviations = {}
  for index, value in ipairs(values) do
    deviations[index] = math.abs(value - middle)
  end
  return middle, 1.8582 * median(deviations) / math.sqrt(#values) + 1e-9
end

local function logs(samples, start, pace)
  local found = {}
  for index, own in ipairs(samples) do
    found[index] = math.log(own.seconds / (start + pace * own.tokens))
  end
  return found
end

-- How many times as long the other calls take for the same work, and the standard deviation.
local function slower_of(one, other)
  local slower, error, error2 = 1.0, nil, nil
  for _ = 1, 8 do
    local both = {}
    for index, own in ipairs(one) do
      both[index] = own
    end
    for _, own in ipairs(other) do
      both[#both + 1] = { tokens = own.tokens, seconds = own.seconds / slower }
    end
    local start, pace = line_of(both)
    local before, after
    before, error = centre(logs(one, start, pace))
    after, error2 = centre(logs(other, start, pace))
    local last = slower
    slower = math.exp(after - before)
    if math.abs(slower - last) < 0.01 * slower then
      break
    end
  end
  return slower, math.sqrt(error * error + error2 * error2)
end

-- The sum of the seconds by that of a line, and its relative standard deviation.
local function ratio_of(samples, start, pace)
  local took, usual, squares = 0.0, 0.0, 0.0
  for _, own in ipairs(samples) do
    took = took + own.seconds
    usual = usual + (start + pace * own.tokens)
  end
  local ratio, n = took / usual, #samples
  for _, own in ipairs(samples) do
    local off = own.seconds - ratio * (start + pace * own.tokens)
    squares = squares + off * off
  end
  return ratio, math.sqrt(squares * n / (n - 2)) / (ratio * usual)
end

-- How many times as long all the other calls take as they would have at the first level.
local function longer_of(one, other)
  local start, pace = line_of(one)
  local took, error = ratio_of(one, start, pace)
  local longer, error2 = ratio_of(other, start, pace)
  return longer / took, math.sqrt(error * error + error2 * error2)
end

local function only(samples, cached)
  local found = {}
  for _, own in ipairs(samples) do
    if own.cached == cached then
      found[#found + 1] = own
    end
  end
  return found
end

local function tokens_of(samples)
  local found = {}
  for index, own in ipairs(samples) do
    found[index] = own.tokens
  end
  return found
end

local function overlap(one, other)
  local first, second = quartiles(tokens_of(one)), quartiles(tokens_of(other))
  return first[1] <= second[3] and second[1] <= first[3]
end

-- The samples of both that can be compared; nil if they are too few.
local function alike(one, other)
  local cached = math.min(#only(one, true), #only(other, true))
    > math.min(#only(one, false), #only(other, false))
  one, other = only(one, cached), only(other, cached)
  if math.min(#one, #other) < FEWEST or not overlap(one, other) then
    return nil
  end
  return one, other
end

-- Whether the higher limit brings at least `WORTH` of its proportion; nil if the samples do not tell.
function levels.worthwhile(low, high, sure)
  local one, other = alike(low.samples, high.samples)
  if not one then
    return nil
  end
  local more = more_of(one, other)
  if more <= 0.0 then
    return nil
  end
  local slower, error = slower_of(one, other)
  local gain = (1.0 + more) / slower - 1.0
  local over = gain - WORTH * more
  if math.abs(over) > sure * (1.0 + gain) * error then
    return over > 0.0
  end
  return nil
end

-- How many times as long the same calls take as before; nil if that is not certain.
function levels.slowdown(before, after)
  local one, other = alike(before, after)
  if not one or math.abs(more_of(one, other)) > 0.1 then
    return nil
  end
  local slower, error = slower_of(one, other)
  if math.abs(math.log(slower)) <= math.max(math.log(CHANGED), CERTAIN * error) then
    return nil
  end
  return (longer_of(one, other))
end

-- How many calls, each as fast as at the lower limit, have the throughput of the higher one, and the relative
-- standard deviation.
function levels.knee(low, high)
  local one, other = alike(low.samples, high.samples)
  if not one then
    return high.limit, math.huge
  end
  local longer, error = longer_of(one, other)
  return mean_in_use(other) / math.max(1.0, longer), error
end
