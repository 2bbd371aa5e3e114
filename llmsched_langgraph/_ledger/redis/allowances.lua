-- The tokens of a tenant that may use so many a minute of a backend: `allowances.py`.

local LATEST, SPAN_S = 32, 60

function allowances.unused()
  return { counted = cells.empty(), attempts = 0, mean = 1500 }
end

-- Tokens with which a grant counts.
function allowances.charge(allowance)
  return math.max(1, numbers.round(allowance.mean))
end

-- When the limit admits one more attempt; at most `now` if it does so now.
function allowances.ready_s(allowance, limit, now)
  local counted = cells.since(allowance.counted, math.floor(now) - SPAN_S)
  local used = cells.total(counted)
  local over, ready = used + allowances.charge(allowance) - limit, now
  if over <= 0.0 or used <= 0.0 then
    return now
  end
  for index, number in ipairs(counted.numbers) do
    if counted.amounts[index] ~= 0 then
      ready, over = number + 1 + SPAN_S, over - counted.amounts[index]
    end
    if over <= 0.0 then
      break
    end
  end
  return ready
end

function allowances.granted(allowance, now, charge)
  local counted = cells.since(allowance.counted, math.floor(now) - SPAN_S)
  return numbers.replace(allowance, { counted = cells.plus(counted, math.floor(now), charge) })
end

-- `tokens` is nil if they are unknown.
function allowances.ended(allowance, now, granted_s, charge, tokens)
  if not tokens then
    return allowance
  end
  local first, cell = math.floor(now) - SPAN_S, math.floor(granted_s)
  local counted = cells.since(allowance.counted, first)
  if cell >= first then
    counted = cells.plus(counted, cell, tokens - charge)
  else
    counted = cells.plus(counted, math.floor(now), tokens)
  end
  if tokens == 0 then -- it failed
    return numbers.replace(allowance, { counted = counted })
  end
  local attempts = allowance.attempts + 1
  local mean = allowance.mean + (tokens - allowance.mean) / math.min(attempts, LATEST)
  return { counted = counted, attempts = attempts, mean = mean }
end

-- The tokens that an attempt used; nil if that is unknown, 0 for one that failed.
function allowances.tokens_of(usage, failed)
  if failed then
    return 0
  elseif not usage.prompt_tokens or not usage.output_tokens then
    return nil
  end
  return math.max(usage.prompt_tokens, 0) + math.max(usage.output_tokens, 0)
end
