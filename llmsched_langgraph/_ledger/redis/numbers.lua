-- Numbers and text that are the same, bit for bit, as in Python.
-- `tostring` cuts numbers at 14 digits; 17 give every double back.

function numbers.text(x)
  return string.format('%.17g', x)
end

-- A whole number whose text sorts as the number does: sorted sets break ties by text.
function numbers.pad(n)
  return string.format('%016d', n)
end

-- Python's `round`: halves go to the even number.
function numbers.round(x)
  local below = math.floor(x)
  local rest = x - below
  if rest > 0.5 or (rest == 0.5 and below % 2 == 1) then
    return below + 1
  end
  return below
end

-- Python's `a // b` for whole numbers below 2^53.
function numbers.whole(a, b)
  return (a - a % b) / b
end

-- Python's `math.nextafter(x, inf)` of a time, which is not negative.
function numbers.next_after(x)
  if x == 0 then
    return 2 ^ -1074
  end
  local _, exponent = math.frexp(x)
  return x + math.ldexp(1, exponent - 53)
end

-- The number of bits of a whole number.
function numbers.bit_length(n)
  if n == 0 then
    return 0
  end
  local _, exponent = math.frexp(n)
  return exponent
end

-- A copy of a value, with changes: Python's `_replace`. `numbers.NONE` removes a field.
numbers.NONE = {}

function numbers.replace(value, changes)
  local copy = {}
  for name, own in pairs(value) do
    copy[name] = own
  end
  for name, own in pairs(changes) do
    if own == numbers.NONE then
      copy[name] = nil
    else
      copy[name] = own
    end
  end
  return copy
end

local ESCAPED = { ['"'] = '\\"', ['\\'] = '\\\\' }

local function escaped(char)
  return ESCAPED[char] or string.format('\\u%04x', string.byte(char))
end

-- JSON with all digits of each number; `cjson.encode` would cut them at 14. An empty table is `[]`.
function numbers.json(value)
  local kind = type(value)
  if kind == 'number' then
    if value == math.huge then
      return 'Infinity'
    elseif value == -math.huge then
      return '-Infinity'
    end
    return numbers.text(value)
  elseif kind == 'string' then
    return '"' .. string.gsub(value, '[%c"\\]', escaped) .. '"'
  elseif kind ~= 'table' then
    return value == nil and 'null' or tostring(value)
  end
  local parts = {}
  if #value > 0 or next(value) == nil then
    for index, own in ipairs(value) do
      parts[index] = numbers.json(own)
    end
    return '[' .. table.concat(parts, ',') .. ']'
  end
  for name, own in pairs(value) do
    parts[#parts + 1] = numbers.json(name) .. ':' .. numbers.json(own)
  end
  return '{' .. table.concat(parts, ',') .. '}'
end

-- Whether one text comes before another, by their bytes: `<` goes by the server's locale.
function numbers.before(one, other)
  for index = 1, math.min(#one, #other) do
    local a, b = string.byte(one, index), string.byte(other, index)
    if a ~= b then
      return a < b
    end
  end
  return #one < #other
end
