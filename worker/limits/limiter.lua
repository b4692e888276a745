-- Limits for a whole fleet. The arithmetic is that of numbers.py, rate.py and slots.py, operation by operation; `rules` comes before.
--
-- KEYS: 1 when this memory began; then of each bucket its numbers and tickets (hash), its line (place of each ticket that
-- waits) and what is held (expiry of each grant). ARGV: what is asked, the time (empty: the server's), ticket, demands.

local AT_ONCE, PASSES, IN_FLIGHT, MOST_STEPS, SECOND = 32, 8, 1000, 64, 1000000
local KEEP = 90000000

-- The numbers of a bucket, in the order in which they are packed: new ones go to the end.
local FIELDS = {
  'credit', 'demanded', 'open', 'largest', 'at', 'frozen', 'frozen_at', 'told', 'cut', 'cut_at', 'used', 'guessed',
  'lowered', 'born', 'ended', 'lessons', 'returned', 'spent_at', 'holding', 'soonest', 'kept', 'limit', 'trust', 'rate',
  'burst', 'busy'
}
local SLOT_FIELDS = { 'hold', 'next', 'limit', 'holding', 'soonest', 'kept' }
local ENTRY = '<ddddddd'

local ticket = ARGV[3]
local at_argument = 3
local now = tonumber(ARGV[2])
if not now then
  local time = redis.call('TIME')
  now = time[1] * SECOND + time[2]
end

local function argument()
  at_argument = at_argument + 1
  return ARGV[at_argument]
end

local function number()
  return tonumber(argument())
end

local function text(value)
  return string.format('%.17g', value)
end

local function key_of(share, part)
  return KEYS[share.bucket * 3 - 1 + part]
end

-- Buckets as they are kept ------------------------------------------------------------------------------------------

local loaded = {}

local function entry_field(of)
  return 't:' .. of
end

local function read_entry(found)
  if not found then
    return nil
  end
  local entry, held = {}, nil
  held, entry.weight, entry.amount, entry.mark, entry.since, entry.expiry, entry.lowered = struct.unpack(ENTRY, found)
  entry.held = held == 1
  return entry
end

local function entry_of(bucket, of)
  if of == ticket then
    return bucket.entry
  end
  return read_entry(redis.call('HGET', bucket.hash, entry_field(of)))
end

local function packed(entry)
  return struct.pack(
    ENTRY, entry.held and 1 or 0, entry.weight, entry.amount, entry.mark, entry.since, entry.expiry, entry.lowered)
end

-- The ticket that is asked for is written with its buckets' numbers, others at once.
local function write_entry(bucket, of, entry)
  if of == ticket then
    bucket.entry = entry
    bucket.rewritten = true
  elseif entry then
    redis.call('HSET', bucket.hash, entry_field(of), packed(entry))
  else
    redis.call('HDEL', bucket.hash, entry_field(of))
  end
end

local function hold(bucket, expiry, of)
  if redis.call('ZADD', bucket.held, text(expiry), of) == 1 then
    if bucket.holding == 0 then
      redis.call('PEXPIRE', bucket.held, KEEP)
    end
    bucket.holding = bucket.holding + 1
  end
  bucket.soonest = bucket.soonest > 0 and math.min(bucket.soonest, expiry) or expiry
end

local function unhold(bucket, of)
  bucket.holding = bucket.holding - redis.call('ZREM', bucket.held, of)
end

local function first(key, most, count)
  return redis.call('ZRANGEBYSCORE', key, '-inf', text(most), 'LIMIT', 0, count)
end

-- When the first lease ends; 0 if nothing is held.
local function soonest_of(bucket)
  return tonumber(redis.call('ZRANGE', bucket.held, 0, 0, 'WITHSCORES')[2]) or 0
end

local function load(share, fields)
  local bucket = loaded[share.bucket]
  if bucket then
    return bucket
  end
  bucket = { hash = key_of(share, 0), line = key_of(share, 1), held = key_of(share, 2), window = share.window, fields = fields }
  local found = redis.call('HMGET', bucket.hash, 'numbers', entry_field(ticket))
  if found[1] then
    local numbers = { struct.unpack('<' .. string.rep('d', #fields), found[1]) }
    for place, field in ipairs(fields) do
      bucket[field] = numbers[place]
    end
  else
    for _, field in ipairs(fields) do
      bucket[field] = 0
    end
    bucket.cut = 1
    -- The leases have a key of their own, which may outlive the numbers: they end when their time comes all the same.
    bucket.holding = redis.call('ZCARD', bucket.held)
    bucket.soonest = soonest_of(bucket)
  end
  bucket.before = found[1]
  bucket.entry = read_entry(found[2])
  loaded[share.bucket] = bucket
  return bucket
end

-- Give the tickets whose lease has ended, so many at most, after forgetting them.
local function expire(bucket, count)
  if bucket.soonest == 0 or bucket.soonest >= now then
    return
  end
  for _, of in ipairs(first(bucket.held, now - 1, count)) do
    unhold(bucket, of)
    write_entry(bucket, of, nil)
  end
  bucket.soonest = soonest_of(bucket)
end

local function pack_numbers(bucket)
  local numbers = {}
  for place, field in ipairs(bucket.fields) do
    numbers[place] = bucket[field]
  end
  return struct.pack('<' .. string.rep('d', #numbers), unpack(numbers))
end

local function save_entry(bucket)
  if bucket.rewritten and bucket.entry then
    redis.call('HSET', bucket.hash, entry_field(ticket), packed(bucket.entry))
  elseif bucket.rewritten then
    redis.call('HDEL', bucket.hash, entry_field(ticket))
  end
  bucket.rewritten = false
end

local function save_bucket(bucket)
  -- A bucket of rates that nobody has visited is left as it is: not there.
  if not (bucket.before or bucket.begun or bucket.fields == SLOT_FIELDS) then
    return
  end
  local stale = now - bucket.kept > 3600 * SECOND
  if stale then
    bucket.kept = now
  end
  local numbers = pack_numbers(bucket)
  if bucket.rewritten and bucket.entry then
    redis.call('HSET', bucket.hash, 'numbers', numbers, entry_field(ticket), packed(bucket.entry))
  else
    save_entry(bucket)
    if numbers ~= bucket.before then
      redis.call('HSET', bucket.hash, 'numbers', numbers)
    end
  end
  if stale then
    local keep = math.max(KEEP, 2 * bucket.window / 1000)
    redis.call('PEXPIRE', bucket.hash, keep)
    redis.call('PEXPIRE', bucket.held, keep)
    redis.call('PEXPIRE', bucket.line, keep)
  end
end

local function save()
  for _, bucket in pairs(loaded) do
    save_bucket(bucket)
  end
end

-- Rates -------------------------------------------------------------------------------------------------------------

local function give(bucket, weight)
  bucket.credit = bucket.credit + weight
  bucket.returned = bucket.returned + weight
end

local function rest(bucket)
  if redis.call('EXISTS', bucket.line) == 0 then
    bucket.open = 0
    bucket.largest = 0
  end
end

local function factor_of(bucket)
  if not (bucket.guessed > 0) then
    return rules.first_factor
  end
  local factor = bucket.used / bucket.guessed
  if bucket.lessons < rules.lessons then
    factor = factor * (1 + (rules.first_factor - 1) / bucket.lessons)
  end
  return math.min(rules.most_factor, math.max(rules.least_factor, factor))
end

local function weigh(bucket, share)
  bucket.limit = share.limit
  if bucket.told > 0 then
    bucket.limit = share.assumed and bucket.told or math.min(bucket.told, share.limit)
  end
  bucket.trust = 1
  if bucket.cut < 1 then
    local steps = math.min(MOST_STEPS, math.floor((now - bucket.cut_at) / rules.regrow_after))
    bucket.trust = math.min(1, bucket.cut * rules.regrow ^ steps)
  end
  local believed = bucket.limit * bucket.trust
  bucket.rate = believed * (1 - rules.safety) / bucket.window
  local kept = math.min(rules.saved, math.max(rules.least_saved, 1 - rules.delay / (bucket.window * share.saved)))
  bucket.burst = believed * kept * share.saved
  bucket.slack = bucket.limit * rules.rounding
  bucket.factor = 1
  if share.estimated then
    bucket.slack = bucket.burst * rules.slack
    bucket.factor = factor_of(bucket)
  end
  local weight = share.amount * bucket.factor
  if share.most then
    weight = math.min(weight, share.most)
  end
  bucket.weight = math.min(weight, bucket.limit)
end

local function reclaim(bucket)
  if bucket.open > 0 then
    for _ = 1, PASSES do
      local found = false
      for _, of in ipairs(first(bucket.line, bucket.credit, AT_ONCE)) do
        local entry = entry_of(bucket, of)
        if not entry then
          redis.call('ZREM', bucket.line, of) -- its bucket was evicted meanwhile
        elseif entry.expiry < now then
          bucket.open = bucket.open - entry.weight
          give(bucket, entry.weight)
          redis.call('ZREM', bucket.line, of)
          write_entry(bucket, of, nil)
          found = true -- what it gave may reach the next one
        end
      end
      if not found then
        break
      end
    end
    rest(bucket)
  end
  expire(bucket, AT_ONCE)
end

local function memory()
  local began = redis.call('GET', KEYS[1])
  if began then
    return tonumber(began)
  end
  redis.call('SET', KEYS[1], text(now))
  return now
end

local function visit_rate(share)
  local bucket = load(share, FIELDS)
  weigh(bucket, share)
  if not bucket.before and not bucket.begun then
    bucket.begun = true
    local since = bucket.window <= rules.long_window and memory() or -math.huge
    bucket.credit = math.max(bucket.weight, math.min(bucket.burst, bucket.rate * (now - since)))
    bucket.at = now
    bucket.born = now
  else
    local top = bucket.demanded - bucket.open + math.max(bucket.burst, bucket.largest, bucket.weight)
    bucket.credit = math.min(bucket.credit + bucket.rate * math.max(0, now - bucket.at), top)
    bucket.at = math.max(bucket.at, now)
  end
  reclaim(bucket)
  return bucket
end

local function too_large(bucket, share)
  local weight = math.min(share.amount, share.amount * bucket.factor, share.most or math.huge)
  local sure = not share.assumed or bucket.told > 0
  return sure and weight > bucket.limit and weight or nil
end

local function patience_of(bucket, share)
  local taught = not share.estimated or bucket.lessons >= rules.lessons or bucket.ended >= rules.endings
  if taught and (bucket.ended > 0 or not share.assumed) then
    return nil
  end
  local lasts = bucket.holding > 0 and now - bucket.busy or 0
  return math.min(math.max(rules.patience, lasts), rules.horizon)
end

local HOLDS = { kind = 'held', fits = true, due = 0, frozen = 0, room = 0 }

local function standing_rate(share)
  local bucket = loaded[share.bucket]
  local entry = bucket.entry
  if entry and entry.held then
    if entry.expiry >= now then
      return HOLDS
    end
    entry = nil
  end
  local frozen = math.max(0, bucket.frozen - now)
  local place = entry and entry.mark or bucket.demanded + bucket.weight
  local slack = entry and bucket.slack or 0
  local due = math.max(0, (place - bucket.credit) / bucket.rate)
  if share.estimated then
    due = due + math.min(due * rules.later, bucket.burst * rules.latest / bucket.rate)
  end
  return {
    kind = entry and 'booked' or 'new', fits = place - slack <= bucket.credit and frozen == 0, due = due, frozen = frozen,
    room = (bucket.credit - bucket.demanded - bucket.weight) / bucket.limit, patience = patience_of(bucket, share),
    horizon = bucket.window <= rules.long_window and rules.horizon or rules.long_horizon
  }
end

local function grant_rate(share, expiry)
  local bucket = loaded[share.bucket]
  local entry = bucket.entry
  if entry and entry.held and entry.expiry >= now then
    entry.expiry = expiry
  else
    if entry and not entry.held then
      bucket.open = bucket.open - entry.weight
      give(bucket, entry.weight - bucket.weight)
      redis.call('ZREM', bucket.line, ticket)
      rest(bucket)
    else
      bucket.demanded = bucket.demanded + bucket.weight
    end
    if bucket.holding == 0 then
      bucket.busy = now
    end
    entry = {
      held = true, weight = bucket.weight, amount = share.amount, mark = bucket.credit - (bucket.demanded - bucket.open),
      since = now, expiry = expiry, lowered = bucket.lowered
    }
  end
  write_entry(bucket, ticket, entry)
  hold(bucket, expiry, ticket)
end

local function book(share, expiry)
  local bucket = loaded[share.bucket]
  local entry = bucket.entry
  if entry and (not entry.held or entry.expiry >= now) then
    if not entry.held then
      entry.expiry = expiry
      write_entry(bucket, ticket, entry)
    end
    return
  end
  unhold(bucket, ticket)
  bucket.demanded = bucket.demanded + bucket.weight
  bucket.open = bucket.open + bucket.weight
  bucket.largest = math.max(bucket.largest, bucket.weight)
  write_entry(bucket, ticket, {
    held = false, weight = bucket.weight, amount = share.amount, mark = bucket.demanded, since = now, expiry = expiry,
    lowered = 0
  })
  redis.call('ZADD', bucket.line, text(bucket.demanded), ticket)
  redis.call('PEXPIRE', bucket.line, KEEP)
end

local function leave(bucket)
  local entry = bucket.entry
  if not entry or entry.held then
    return
  end
  if entry.mark < bucket.demanded then
    entry.expiry = 0
    write_entry(bucket, ticket, entry)
    return
  end
  bucket.demanded = bucket.demanded - entry.weight
  bucket.open = bucket.open - entry.weight
  redis.call('ZREM', bucket.line, ticket)
  write_entry(bucket, ticket, nil)
  rest(bucket)
end

local function finish(bucket)
  local entry = bucket.entry
  if not entry or not entry.held then
    return nil
  end
  unhold(bucket, ticket)
  write_entry(bucket, ticket, nil)
  return entry
end

local function learn(bucket, used, amount)
  bucket.used = bucket.used * rules.memory + used
  bucket.guessed = bucket.guessed * rules.memory + amount
  bucket.lessons = bucket.lessons + 1
  if bucket.lessons ~= rules.lessons then
    return
  end
  local factor = factor_of(bucket) * rules.caution
  for _, of in ipairs(first(bucket.held, math.huge, IN_FLIGHT)) do
    local entry = entry_of(bucket, of)
    if entry then
      local weight = math.min(entry.weight, entry.amount * factor)
      give(bucket, entry.weight - weight)
      entry.weight = weight
      write_entry(bucket, of, entry)
    end
  end
end

local function settle_rate(share, used)
  local bucket = loaded[share.bucket]
  local entry = finish(bucket)
  if not entry then
    return
  end
  bucket.ended = bucket.ended + 1
  if used and share.estimated then
    give(bucket, entry.weight - used)
    if used > 0 then
      learn(bucket, used, entry.amount)
    end
  end
end

local function adjust(share, limit, remaining)
  local bucket = loaded[share.bucket]
  if limit and limit > 0 and limit ~= bucket.told then
    bucket.told = limit
    bucket.cut = 1
    weigh(bucket, share)
  end
  local entry = bucket.entry
  if remaining and entry and entry.held then
    local excess = entry.mark - (bucket.lowered - entry.lowered) - remaining
    if excess > bucket.limit * rules.doubt then
      bucket.credit = bucket.credit - excess
      bucket.lowered = bucket.lowered + excess
    end
  end
end

local function distrust(bucket)
  local entry = bucket.entry
  if not entry or not entry.held or entry.since < bucket.frozen_at then
    return
  end
  local spent = bucket.demanded - bucket.open - bucket.returned
  if now - bucket.born >= rules.youth then
    local trust = bucket.trust * rules.cut
    if bucket.frozen_at > 0 and now - bucket.frozen_at >= rules.measure then
      local came_in = (spent - bucket.spent_at) / (now - bucket.frozen_at) * bucket.window / bucket.limit
      trust = math.max(trust, math.min(bucket.trust, came_in * rules.measured))
    end
    bucket.cut = math.max(rules.least_cut, trust)
    bucket.cut_at = now
  end
  bucket.frozen_at = now
  bucket.spent_at = spent
  bucket.credit = bucket.credit - bucket.limit * bucket.cut * rules.reserve
end

-- Places in flight --------------------------------------------------------------------------------------------------

local function drop_slot(bucket, of)
  unhold(bucket, of)
  write_entry(bucket, of, nil)
end

local function visit_slot(share)
  local bucket = load(share, SLOT_FIELDS)
  bucket.limit = share.limit
  expire(bucket, bucket.holding)
  bucket.holding = redis.call('ZCARD', bucket.held)
  bucket.taken = bucket.holding
  return bucket
end

local function standing_slot(share)
  local bucket = loaded[share.bucket]
  if bucket.entry then
    return HOLDS
  end
  local room = (bucket.limit - bucket.taken - 1) / bucket.limit
  local due = 0
  if room < 0 then
    local gap = (bucket.hold > 0 and bucket.hold or rules.first_hold) / bucket.limit
    due = math.min(math.max(math.max(bucket.next, now) + gap - now, rules.least_gap), rules.horizon)
  end
  return { kind = 'new', fits = room >= 0, due = due, frozen = 0, room = room, horizon = rules.horizon }
end

local function grant_slot(share, expiry)
  local bucket = loaded[share.bucket]
  if not bucket.entry then
    write_entry(bucket, ticket, {
      held = true, weight = 1, amount = 1, mark = 0, since = now, expiry = expiry, lowered = 0
    })
  end
  hold(bucket, expiry, ticket)
end

local function settle_slot(share)
  local bucket = loaded[share.bucket]
  if not bucket.entry then
    return
  end
  local lasted = now - bucket.entry.since
  drop_slot(bucket, ticket)
  bucket.hold = bucket.hold > 0 and bucket.hold + rules.hold_weight * (lasted - bucket.hold) or lasted
end

-- What is asked -----------------------------------------------------------------------------------------------------

local function visit(share)
  return share.slot and visit_slot(share) or not share.slot and visit_rate(share)
end

local function read_demand()
  local demand = { lease = number(), shares = {} }
  for place = 1, number() do
    demand.shares[place] = {
      bucket = number(), slot = argument() == 'slot', limit = number(), window = number(), saved = number(),
      assumed = argument() == '1', provider = argument() == '1', amount = number(), most = number(),
      estimated = argument() == '1'
    }
  end
  return demand
end

local function read_demands()
  local demands = {}
  for place = 1, number() do
    demands[place] = read_demand()
  end
  return demands
end

local function visit_demand(demand)
  for place, share in ipairs(demand.shares) do
    local bucket = visit(share)
    local weight = not share.slot and too_large(bucket, share)
    if weight then
      return { 'large', place, text(weight), text(bucket.limit) }
    end
  end
end

local function offer_of(place, demand)
  local offer = {
    place = place, demand = demand, standings = {}, fits = true, holds = true, booked = 0, room = math.huge, wait = 0,
    full = false, blind = false
  }
  for at, share in ipairs(demand.shares) do
    local each = share.slot and standing_slot(share) or not share.slot and standing_rate(share)
    offer.standings[at] = each
    offer.fits = offer.fits and each.fits
    offer.holds = offer.holds and each.kind == 'held'
    offer.booked = offer.booked + (each.kind == 'booked' and 1 or 0)
    offer.room = math.min(offer.room, each.room)
    offer.wait = math.max(offer.wait, each.due, each.frozen)
    offer.full = offer.full or (share.slot and not each.fits)
    offer.blind = offer.blind or each.patience ~= nil
  end
  return offer
end

local function better(one, other)
  if one.fits ~= other.fits then
    return one.fits
  end
  if one.booked ~= other.booked then
    return one.booked > other.booked
  end
  if one.fits then
    return one.room > other.room
  end
  return one.wait < other.wait
end

local function best(offers)
  local found = offers[1]
  for _, offer in ipairs(offers) do
    if offer.holds then
      return offer
    end
    if better(offer, found) then
      found = offer
    end
  end
  return found
end

local function told(offer)
  local place, longest, due, frozen, horizon, patience = 1, -1, 0, 0, 0, nil
  for at, each in ipairs(offer.standings) do
    local wait = each.fits and 0 or math.max(each.due, each.frozen)
    if wait > longest then
      place, longest = at, wait
    end
    if not each.fits then
      due = math.max(due, each.due)
      horizon = math.max(horizon, each.horizon)
    end
    frozen = math.max(frozen, each.frozen)
    if each.patience then
      patience = math.min(patience or math.huge, each.patience)
    end
  end
  return math.ceil(math.max(patience or math.min(due, horizon), frozen, 1000)), place
end

local function grant(offer)
  local expiry = now + offer.demand.lease
  for _, share in ipairs(offer.demand.shares) do
    if share.slot then
      grant_slot(share, expiry)
    else
      grant_rate(share, expiry)
    end
  end
  return { 'granted', offer.place }
end

local function wait(offer)
  local seconds, place = told(offer)
  local expiry = now + seconds + rules.grace
  for at, share in ipairs(offer.demand.shares) do
    local each = offer.standings[at]
    if share.slot then
      if not each.fits then
        loaded[share.bucket].next = now + each.due
      end
    elseif (not offer.full and not offer.blind) or each.kind == 'booked' then
      book(share, expiry)
    end
  end
  local why = offer.demand.shares[place].slot and 'concurrency'
    or offer.standings[place].frozen >= seconds and 'frozen' or 'rate'
  return { 'wait', offer.place, place, text(seconds), why }
end

local function leave_others(demands, chosen)
  local kept = {}
  for _, share in ipairs(chosen.shares) do
    kept[share.bucket] = true
  end
  for _, demand in ipairs(demands) do
    for _, share in ipairs(demand.shares) do
      if not share.slot and not kept[share.bucket] then
        leave(load(share, FIELDS))
      end
    end
  end
end

local asked = {}

function asked.acquire()
  local demands, offers, refusal = read_demands(), {}, nil
  for place, demand in ipairs(demands) do
    local large = visit_demand(demand)
    if not large then
      offers[#offers + 1] = offer_of(place, demand)
    elseif not refusal then
      table.insert(large, 2, place)
      refusal = large
    end
  end
  if #offers == 0 then
    return refusal
  end
  local offer = best(offers)
  leave_others(demands, offer.demand)
  if #demands > 1 then
    visit_demand(offer.demand)
  end
  return offer.fits and grant(offer) or not offer.fits and wait(offer)
end

-- What a reply says: of each share what was used, the provider's limit and what is left of it, whether it is complained of.
function asked.tell()
  local seconds, over_limit, ends = number(), argument() == '1', argument() == '1'
  local demand = read_demand()
  local suspect, least, announced = nil, math.huge, false
  local used = {}
  for place, share in ipairs(demand.shares) do
    local limit, remaining, named
    used[place], limit, remaining, named = number(), number(), number(), argument() == '1'
    local bucket = visit(share)
    if share.provider and not share.slot then
      local before = bucket.limit * bucket.trust
      adjust(share, limit, remaining)
      announced = announced or bucket.limit < before
      if seconds and named then
        local left = (bucket.credit - (bucket.demanded - bucket.open)) / bucket.limit
        if left < least then
          suspect, least = bucket, left
        end
        bucket.credit = math.min(bucket.credit, bucket.demanded - bucket.open)
        bucket.frozen = math.max(bucket.frozen, now + seconds * SECOND)
      end
    end
  end
  if suspect and over_limit and not announced then
    distrust(suspect)
  end
  for place, share in ipairs(ends and demand.shares or {}) do
    if share.slot then
      settle_slot(share)
    else
      settle_rate(share, used[place])
    end
  end
  return {}
end

function asked.release()
  for _, demand in ipairs(read_demands()) do
    for _, share in ipairs(demand.shares) do
      local bucket = visit(share)
      if share.slot then
        if bucket.entry then
          drop_slot(bucket, ticket)
        end
      else
        leave(bucket)
        local entry = finish(bucket)
        if entry then
          give(bucket, entry.weight)
        end
      end
    end
  end
  return {}
end

-- Of each grant its ticket, which is then the one that is asked for.
function asked.renew()
  memory()
  for _ = 1, number() do
    ticket = argument()
    local demand = read_demand()
    local expiry = now + demand.lease
    for _, share in ipairs(demand.shares) do
      local bucket = load(share, share.slot and SLOT_FIELDS or FIELDS)
      bucket.entry = read_entry(redis.call('HGET', bucket.hash, entry_field(ticket)))
      if share.slot then
        bucket.limit = share.limit
        grant_slot(share, expiry)
      elseif bucket.entry and bucket.entry.held then
        bucket.entry.expiry = expiry
        write_entry(bucket, ticket, bucket.entry)
        hold(bucket, expiry, ticket)
      end
      save_entry(bucket)
    end
  end
  return {}
end

local reply = asked[ARGV[1]]()
save()
return reply
