-- The limits of a backend: its slots, given or found, its pauses and its rates: `capacity.py`. A backend's
-- table has the limit and the pauses; the search for a limit and what counts against the rates are values of
-- their own (`found`, `spent`), which only backends that need them read.

local NOTHING_COUNTED = { prompt_tokens = 0, output_tokens = 0 }
local NOTHING_SENT = { output_tokens = 0 }
local UNKNOWN_USAGE = {}

local function found_of(backend)
  return state.get('found', backend.id) or auto.found(backend.limit)
end

local function put_found(backend, found)
  backend.limit = found.limit
  state.put('found', backend.id, found)
end

local function spent_of(backend)
  return backend.rates and state.get('spent', backend.id) or nil
end

local function put_spent(backend, spent)
  state.put('spent', backend.id, spent or false)
end

-- Whether tokens do not matter.
function capacity.plain(backend)
  return not backend.rates and not backend.auto
end

-- Take over other settings: a number of slots or bounds of one that is found, and rates.
function capacity.configured(backend, now, settings)
  local spent = spent_of(backend)
  if settings.auto then
    put_found(backend, auto.configured(found_of(backend), settings.auto, now))
  elseif backend.limit ~= settings.slots then
    put_found(backend, auto.found(settings.slots))
  end
  backend.slots, backend.auto, backend.rates = settings.slots, settings.auto, settings.rates
  put_spent(backend, rates.configured(spent, settings.rates, now, backend.holding))
end

function capacity.ready_s(backend, now, estimate)
  return rates.ready_s(spent_of(backend), backend.rates, now, estimate)
end

function capacity.granted(backend, now, estimate)
  if backend.rates then
    put_spent(backend, rates.granted(spent_of(backend), now, estimate))
  end
end

local function released(backend, attempt, now, usage)
  if backend.rates then
    local spent = spent_of(backend)
    put_spent(backend, rates.released(spent, now, attempt.granted_s, attempt.estimate, usage))
  end
end

function capacity.failed(backend, attempt, failure)
  local now, pause = attempt.released_s, backend.pause
  local before_s = pause.opens_s
  local found = found_of(backend)
  if not (auto.trying(found) and not failure.retry_after_s) then
    pause = pauses.paused(pause, backend.granted, attempt.granted_s, now, failure)
  end
  local named = failure.retry_after_s ~= nil
  local exhausted = named and failure.retry_after_s > pauses.LIMIT_S
  if backend.auto and auto.too_busy(failure) and not exhausted then
    local pause_s = 0.0
    if named then
      pause_s = math.max(0.0, pause.opens_s - math.max(before_s, now))
    end
    put_found(
      backend,
      auto.refused(found, backend.auto, now, {
        granted_s = attempt.granted_s,
        concurrency = attempt.concurrency,
        pause_s = pause_s,
      })
    )
  end
  backend.pause = pause
  local usage = NOTHING_SENT
  if not failure.status then -- the answer may have broken off half way
    usage = UNKNOWN_USAGE
  elseif pauses.REFUSALS[failure.status] then
    usage = NOTHING_COUNTED
  end
  released(backend, attempt, now, usage)
end

function capacity.ended(backend, attempt, well)
  local pause = backend.pause
  if well and pause.backoff_s ~= 0 then
    backend.pause = pauses.paused(pause, 0, attempt.granted_s, attempt.released_s, nil)
  end
end

function capacity.used(backend, now, attempt, usage, well)
  if well and backend.auto then
    local success = {
      granted_s = attempt.granted_s,
      in_use = attempt.in_use,
      waiting = attempt.waiting,
      seconds = attempt.released_s - attempt.granted_s,
      output_tokens = usage.output_tokens,
      cached = 2 * (usage.cached_tokens or 0) > (usage.prompt_tokens or 0),
    }
    put_found(backend, auto.succeeded(found_of(backend), backend.auto, now, success))
  end
  released(backend, attempt, now, usage)
end

function capacity.corrected(backend, now, quotas)
  if backend.rates then
    put_spent(backend, rates.corrected(spent_of(backend), backend.rates, now, quotas))
  end
end

-- The capacity at the beginning: as in Python, time is 0 then.
function capacity.new(backend, settings)
  backend.limit = settings.auto and settings.auto.start or settings.slots
  backend.pause = pauses.never()
  capacity.configured(backend, 0.0, settings)
end
