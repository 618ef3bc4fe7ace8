#!lua name=croupier_ledger
-- Everything that changes what may be sent to a player happens in one of these calls, atomically.
-- All keys of a call carry one partition tag. Facts are registers: `moment rank text`, where the greatest
-- (moment, rank, text) wins, so that facts merge in any order and ties go to the stricter (higher) rank.

local function real_us()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000000 + tonumber(t[2])
end

-- House time of this call; the three numbers are the house's clock.
local function house_us(real0, house0, rate)
  return math.floor(tonumber(house0) + (real_us() - tonumber(real0)) * tonumber(rate))
end

local function number(n)
  return string.format('%.0f', n)
end

local function assert_fact(facts, field, moment, rank, text)
  local held = redis.call('HGET', facts, field)
  if held then
    local m, r, t = string.match(held, '^(%-?%d+) (%d+) (.*)$')
    m, r = tonumber(m), tonumber(r)
    local wins = moment > m or (moment == m and (rank > r or (rank == r and text > t)))
    if not wins then return 0 end
  end
  redis.call('HSET', facts, field, number(moment) .. ' ' .. number(rank) .. ' ' .. text)
  return 1
end

local function append(log, kind, body, known, zone)
  return redis.call('XADD', log, '*', 'k', kind, 't', number(known), 'z', zone or '', 'b', body)
end

-- Takes back every open lease of a promotion on a channel ('*' for all): its capacity is free again, it can never be
-- confirmed, and the log tells of each, as does the partition's outbox, from which senders are told. A confirmed
-- contact stays as it is. Returns how many.
local function revoke(ledger, log, channel, player, brand, now, zone)
  local taken, entries = 0, redis.call('HGETALL', ledger)
  for at = 1, #entries, 2 do
    local decision, entry = entries[at], entries[at + 1]
    local purpose, offer, on = string.match(entry, '^%d+ %d+ reserved (%l+) (%S+) (%S+) ')
    if (purpose == 'marketing' or purpose == 'bonus') and (channel == '*' or channel == on) then
      redis.call('HSET', ledger, decision, (string.gsub(entry, '^(%d+ %d+) %l+ ', '%1 revoked ')))
      local row = {player = player, outcome_id = 'revoked/' .. decision, decision_id = decision, type = 'revoked',
        brand = brand, channel = on, offer = offer}
      append(log, 'revocation', cmsgpack.pack(row), now, zone)
      append((string.gsub(log, '^log', 'outbox')), 'revocation', cmsgpack.pack(row), now, zone)
      taken = taken + 1
    end
  end
  if taken > 0 then redis.call('HINCRBY', ledger, 'v', 1) end
  return taken
end

-- KEYS: facts, ledger, log, then one `seen` key per entry.
-- ARGV: real0, house0, rate, then per entry: kind, digest, seconds its id is remembered (0: not), body,
--       decision to release ('' for none), channel whose leases its facts forbid ('*' all, '' none), number of facts,
--       and per fact: field, moment, rank, text.
-- Returns per entry: status (new | duplicate | conflict), stream id.
local function ingest(keys, args)
  local known = house_us(args[1], args[2], args[3])
  local out, at, changed = {}, 4, 0
  for n = 4, #keys do
    local kind, digest, seconds, body, release, forbids, facts = unpack(args, at, at + 6)
    at = at + 7
    local held = redis.call('GET', keys[n])
    if held then
      out[#out + 1] = string.sub(held, 1, #digest) == digest and 'duplicate' or 'conflict'
      out[#out + 1] = string.sub(held, #digest + 1)
    else
      local before = changed
      for f = 0, tonumber(facts) - 1 do
        local field, moment, rank, text = unpack(args, at + f * 4, at + f * 4 + 3)
        changed = changed + assert_fact(keys[1], field, tonumber(moment), tonumber(rank), text)
      end
      if release ~= '' then
        local entry = redis.call('HGET', keys[2], release)
        if entry and not string.find(entry, ' released ', 1, true) then
          redis.call('HSET', keys[2], release, (string.gsub(entry, '^(%d+ %d+) %l+ ', '%1 released ')))
          redis.call('HINCRBY', keys[2], 'v', 1)
        end
      end
      local zone = redis.call('HGET', keys[1], 'time_zone')
      zone = zone and string.match(zone, '^%-?%d+ %d+ (.*)$')
      local id = append(keys[3], kind, body, known, zone)
      if forbids ~= '' and changed > before then
        local told = cmsgpack.unpack(body)
        revoke(keys[2], keys[3], forbids, told.player, told.brand, known, zone)
      end
      if tonumber(seconds) > 0 then redis.call('SET', keys[n], digest .. id, 'EX', seconds) end
      out[#out + 1] = 'new'
      out[#out + 1] = id
    end
    at = at + tonumber(facts) * 4
  end
  if changed > 0 then redis.call('HINCRBY', keys[1], 'v', 1) end
  return out
end

-- KEYS: facts, features, ledger, lease of the partition, seal, decision.
-- Returns the store's time, and all that a decision reads.
local function view(keys, args)
  return {
    number(real_us()),
    redis.call('HGETALL', keys[1]),
    redis.call('HGETALL', keys[2]),
    redis.call('HGETALL', keys[3]),
    redis.call('HGET', keys[4], 'watermark'),
    redis.call('GET', keys[5]),
    redis.call('GET', keys[6]),
  }
end

-- KEYS: facts, ledger, log, decision, seal, recent decisions.
-- ARGV: real0, house0, rate, facts version, ledger version, seal, seconds the record is kept, decision id,
--       record, number of recent decisions to remember, ledger entry ('' for no contact), then ledger entries that no window holds any more.
-- Returns reserved + stream id, replay + the record held, or moved.
local function reserve(keys, args)
  local held = redis.call('GET', keys[4])
  if held then return {'replay', held} end
  local facts, ledger = redis.call('HGET', keys[1], 'v') or '0', redis.call('HGET', keys[2], 'v') or '0'
  if facts ~= args[4] or ledger ~= args[5] then return {'moved'} end
  local seal = redis.call('GET', keys[5])
  if seal and seal ~= args[6] then return {'moved'} end
  if not seal then redis.call('SET', keys[5], args[6]) end
  redis.call('SET', keys[4], args[9], 'EX', args[7])
  redis.call('LPUSH', keys[6], args[8])
  redis.call('LTRIM', keys[6], 0, tonumber(args[10]) - 1)
  redis.call('EXPIRE', keys[6], args[7])
  if args[11] ~= '' then
    for n = 12, #args do redis.call('HDEL', keys[2], args[n]) end
    redis.call('HSET', keys[2], args[8], args[11])
    redis.call('HINCRBY', keys[2], 'v', 1)
  end
  return {'reserved', append(keys[3], 'decision', args[9], house_us(args[1], args[2], args[3]))}
end

-- KEYS: facts, ledger, log. ARGV: real0, house0, rate, facts version, decision id, body of the exposure, ledger
-- version, moment of sending that the caps were asked about.
-- A contact that is confirmed after its moment counts from now on at the later one.
-- Returns confirmed | moved | expired | released | revoked | unknown, and the house time of the (first) confirm.
local function confirm(keys, args)
  local now = house_us(args[1], args[2], args[3])
  local entry = redis.call('HGET', keys[2], args[5])
  if not entry then return {'unknown', number(now)} end
  local ledger = redis.call('HGET', keys[2], 'v') or '0'
  if (redis.call('HGET', keys[1], 'v') or '0') ~= args[4] or ledger ~= args[7] then return {'moved', number(now)} end
  local send, valid, state, rest = string.match(entry, '^(%d+) (%d+) (%l+) (.*)$')
  if state == 'released' or state == 'revoked' then return {state, number(now)} end
  if now > tonumber(valid) then return {'expired', number(now)} end
  if state == 'confirmed' then return {'confirmed', string.match(rest, '(%d+)$')} end
  local kept = string.gsub(rest, ' %d+$', ' ' .. number(now))
  redis.call('HSET', keys[2], args[5], args[8] .. ' ' .. valid .. ' confirmed ' .. kept)
  if args[8] ~= send then redis.call('HINCRBY', keys[2], 'v', 1) end
  append(keys[3], 'exposure', args[6], now)
  return {'confirmed', number(now)}
end

-- KEYS: facts, ledger, log. ARGV: real0, house0, rate, player, brand, channel whose leases the facts forbid, then per
-- fact field, moment, rank, text. Facts that the worker derives: merged like any other, so that telling them twice or
-- late changes nothing. Returns how many changed.
local function assert_facts(keys, args)
  local changed = 0
  for at = 7, #args, 4 do
    local field, moment, rank, text = unpack(args, at, at + 3)
    changed = changed + assert_fact(keys[1], field, tonumber(moment), tonumber(rank), text)
  end
  if changed > 0 then
    redis.call('HINCRBY', keys[1], 'v', 1)
    if args[6] ~= '' then revoke(keys[2], keys[3], args[6], args[4], args[5], house_us(args[1], args[2], args[3])) end
  end
  return changed
end

-- KEYS: seal. ARGV: a fresh key. Returns the player's key, created if there was none.
local function seal(keys, args)
  redis.call('SET', keys[1], args[1], 'NX')
  return redis.call('GET', keys[1])
end

redis.register_function('croupier_ingest', ingest)
redis.register_function{function_name = 'croupier_view', callback = view, flags = {'no-writes'}}
redis.register_function('croupier_reserve', reserve)
redis.register_function('croupier_confirm', confirm)
redis.register_function('croupier_seal', seal)
redis.register_function('croupier_assert', assert_facts)
