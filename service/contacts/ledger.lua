#!lua name=croupier_ledger
-- Everything that changes what may be sent to a player happens in one of these calls, atomically.
-- All keys of a call carry one partition tag; keys.py tells what stands under each, entries.py the texts of a ledger.
-- Facts are registers: `moment rank text`, where the greatest (moment, rank, text) wins, so that facts merge in any
-- order and ties go to the stricter (higher) rank. Names of functions, and what they are given in which order, never
-- change: processes of several builds share a store.

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

-- What stays of a fact when its player is erased: its text if it restricts contact, a part of it, or nil.
-- A birth date restricts while no place would let the player play (see facts.py: 21 years).
local WHOLE = {exclusion = true, time_out = true, unsubscribed = true, listed = true, complained = true, limit_raised = true}
local RANKED = {account = true, objection = true, register = true, complaint = true}
local function suppressing(field, rank, text, now)
  local name = string.match(field, '^~[^|]*|(.*)$') or field
  local kind = string.match(name, '^[^:]+')
  if WHOLE[kind] or (RANKED[kind] and rank > 0) then return text end
  if kind == 'consent' then return string.match(text, '^withdrawn') end
  if kind == 'harm' then return text ~= 'none' and text or nil end
  if kind == 'birth_date' or kind == 'verified_birth_date' then
    local born = tonumber(string.match(text, '^%d+'))
    return born and 1970 + now / 31556952e6 - born < 23 and text or nil
  end
end

-- When the player was erased; nil if never.
local function erased_us(facts)
  return tonumber(string.match(redis.call('HGET', facts, 'erased') or '', '^%d+'))
end

-- Of a player who was erased: no longer as the erasure left them. Erasing anew has something to do from now on.
local function touch_erased(facts)
  local erased = redis.call('HGET', facts, 'erased')
  if erased and string.sub(erased, -6) == ' quiet' then redis.call('HSET', facts, 'erased', string.sub(erased, 1, -7)) end
end

-- The moment of an event's body. It is looked for by its name: `cmsgpack` reads no bytes, as sealed fields are.
local function occurred_us(body)
  local at = string.find(body, '\171occurred_at', 1, true)
  if not at then return nil end
  local _, told = cmsgpack.unpack_one(body, at + 11)
  return tonumber(told)
end

-- Registers whose moment is their value, and that of the others' event is not theirs.
local BY_VALUE = {opened = true, birth_date = true, time_out = true}

-- Asserts the facts that stand at some places of the arguments: field, moment, rank, text each. Returns how many changed.
-- Of an erased player, those of before the erasure are left out unless they restrict contact; `told` is the moment of the
-- event that tells them, nil where each stands for itself.
local function assert_all(facts, args, first, last, told)
  local changed, erased = 0, last > first and erased_us(facts)
  for at = first, last, 4 do
    local field, moment, rank, text = unpack(args, at, at + 3)
    local kind = string.match(string.match(field, '^~[^|]*|(.*)$') or field, '^[^:]+')
    local since = told or (not BY_VALUE[kind] and tonumber(moment)) or math.huge
    if not erased or since > erased or suppressing(field, tonumber(rank), text, erased) then
      changed = changed + assert_fact(facts, field, tonumber(moment), tonumber(rank), text)
    end
  end
  return changed
end

local function append(log, kind, body, known, zone)
  return redis.call('XADD', log, '*', 'k', kind, 't', number(known), 'z', zone or '', 'b', body)
end

-- Gives what a contact charged to budgets back to the partition's shares. An entry ends in `budget/day=amount,...`.
local function give_back(budget, entry)
  for name, amount in string.gmatch(string.match(entry, '%S+$'), '([^,=]+)=(%d+)') do
    redis.call('HINCRBY', budget, name, amount)
  end
end

-- Key of what is known of sending a decision's contact: the log's with another beginning, as the outbox's is. Of a contact
-- of another partition, which linked ids brought along, nothing stands there.
local function send_key(log, decision)
  return (string.gsub(log, '^log', 'send')) .. decision
end

-- Takes a message that waits to be sent out of the partition's sends. Returns whether it waited.
local function withdraw(log, decision, now, why)
  local send = send_key(log, decision)
  if redis.call('HGET', send, 'state') ~= 'due' then return false end
  redis.call('HSET', send, 'state', 'withdrawn', 'at', number(now), 'why', why)
  redis.call('ZREM', (string.gsub(log, '^log', 'sends')), decision)
  return true
end

-- What an outcome proves of a contact that the house sent, and the states from which.
local PROVEN = {sent = 'sent', failed = 'failed', delivered = 'delivered', opened = 'delivered', clicked = 'delivered',
  opened_by_machine = 'delivered', unsubscribed = 'delivered', complained = 'delivered'}
local BEFORE = {sent = {attempted = true, unknown = true}, failed = {attempted = true, unknown = true, sent = true,
  delivered = true}, delivered = {attempted = true, unknown = true, sent = true}}

-- Settles what is known of sending a contact by an outcome, as it is appended to the log.
local function settle_send(log, body, now)
  local read, told = pcall(cmsgpack.unpack, body)
  if not read or type(told) ~= 'table' or (told.decision_id or '') == '' then return end
  local send, proven = send_key(log, told.decision_id), PROVEN[told.type]
  if proven and BEFORE[proven][redis.call('HGET', send, 'state')] then
    redis.call('HSET', send, 'state', proven, 'at', number(now))
    redis.call('ZREM', (string.gsub(log, '^log', 'sends')), told.decision_id)
  end
end

local PROMOTIONAL = {marketing = true, bonus = true}

-- Takes back what the house shows the player or asks an agent to do, if it is promotional, on a channel ('*' for all).
local function recall(ledger, channel)
  for _, kind in ipairs({'inbox', 'tasks'}) do
    local key = string.gsub(ledger, '^ledger', kind)
    local kept = redis.call('HGETALL', key)
    for at = 1, #kept, 2 do
      local purpose, on = string.match(kept[at + 1], '^(%S+) (%S+) ')
      if PROMOTIONAL[purpose] and (channel == '*' or channel == on) then redis.call('HDEL', key, kept[at]) end
    end
  end
end

-- Revokes every open lease of a promotion on a channel ('*' for all): its capacity is free again and it can never be
-- confirmed; a message that waits is taken out, one that stands in the player's inbox recalled. Each is appended to the
-- log, and to the partition's outbox for webhooks (its key is the log's with another beginning: see `outbox_key` in
-- keys.py). A confirmed contact stays as it is, unless a provider did not take it yet. Returns how many.
local function revoke(ledger, log, budget, channel, player, now, zone)
  local taken, entries = 0, redis.call('HGETALL', ledger)
  recall(ledger, channel)
  for at = 1, #entries, 2 do
    local decision, entry = entries[at], entries[at + 1]
    local state, purpose, offer, on, rest = string.match(entry, '^%d+ %d+ (%l+) (%S+) (%S+) (%S+) (.*)$')
    local wanted = PROMOTIONAL[purpose] and (channel == '*' or channel == on)
    local waited = wanted and (state == 'reserved' or state == 'confirmed') and withdraw(log, decision, now, 'revoked')
    if wanted and (state == 'reserved' or waited) then
      local brand = string.match(rest, '^%S+ %d+ (%S+)') or 'main'
      redis.call('HSET', ledger, decision, (string.gsub(entry, '^(%d+ %d+) %l+ ', '%1 revoked ')))
      give_back(budget, entry)
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

-- Version of facts and stops, which a call that may let a contact go compares with what its caller read: that of the facts
-- and, while stops stand, that of the partition's stops (their key is the log's with another beginning: see `stops_key` in
-- keys.py). A caller that knows no stops is refused while one stands.
local function version_of(facts, log)
  local version = redis.call('HGET', facts, 'v') or '0'
  local stops = redis.call('HGET', (string.gsub(log, '^log', 'stops')), 'v')
  return stops and version .. ' ' .. stops or version
end

-- KEYS: facts, ledger, log, budget shares, then one `seen` key per entry.
-- ARGV: real0, house0, rate, then per entry: kind, digest, seconds its id is remembered (0: not), body,
--       decision to release ('' for none), name and text of an answer to note in the ledger ('' for none), channel whose
--       leases its facts forbid ('*' all, '' none), number of facts, and per fact: field, moment, rank, text.
-- Returns per entry: status (new | duplicate | conflict | linked), stream id; of a linked id the player that holds it.
local function ingest(keys, args)
  local known, linked = house_us(args[1], args[2], args[3]), redis.call('HGET', keys[1], 'to')
  local out, at, changed = {}, 4, 0
  for n = 5, #keys do
    local kind, digest, seconds, body, release, note, noted, forbids, facts = unpack(args, at, at + 8)
    at = at + 9
    local held = redis.call('GET', keys[n])
    if held then
      out[#out + 1] = string.sub(held, 1, #digest) == digest and 'duplicate' or 'conflict'
      out[#out + 1] = string.sub(held, #digest + 1)
    elseif linked then
      out[#out + 1] = 'linked'
      out[#out + 1] = linked
    else
      local before = changed
      local told = erased_us(keys[1]) and occurred_us(body)
      touch_erased(keys[1])
      changed = changed + assert_all(keys[1], args, at, at + tonumber(facts) * 4 - 1, told)
      local entry = release ~= '' and redis.call('HGET', keys[2], release)
      local state = entry and string.match(entry, '^%d+ %d+ (%l+) ')
      if state == 'reserved' or state == 'confirmed' then
        redis.call('HSET', keys[2], release, (string.gsub(entry, '^(%d+ %d+) %l+ ', '%1 released ')))
        withdraw(keys[3], release, known, 'cancelled')
        give_back(keys[4], entry)
        redis.call('HINCRBY', keys[2], 'v', 1)
      end
      if note ~= '' and redis.call('HSETNX', keys[2], note, noted) == 1 then redis.call('HINCRBY', keys[2], 'v', 1) end
      local zone = redis.call('HGET', keys[1], 'time_zone')
      zone = zone and string.match(zone, '^%-?%d+ %d+ (.*)$')
      local id = append(keys[3], kind, body, known, zone)
      if kind == 'outcome' then settle_send(keys[3], body, known) end
      if forbids ~= '' and changed > before then
        revoke(keys[2], keys[3], keys[4], forbids, cmsgpack.unpack(body).player, known, zone)
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

-- KEYS: facts, features, ledger, lease of the partition, seal, decision, budget shares, stops of the partition (which
-- earlier builds do not ask for, and are not told).
-- Returns the store's time, and all that a decision reads.
-- Processes of an earlier build read players by it.
local function view(keys, args)
  local seen = {
    number(real_us()),
    redis.call('HGETALL', keys[1]),
    redis.call('HGETALL', keys[2]),
    redis.call('HGETALL', keys[3]),
    redis.call('HGET', keys[4], 'watermark'),
    redis.call('GET', keys[5]),
    redis.call('GET', keys[6]),
    redis.call('HGETALL', keys[7]),
  }
  if keys[8] then seen[9] = redis.call('HGETALL', keys[8]) end
  return seen
end

-- KEYS: facts, ledger, log, decision, seal, recent decisions, budget shares, leases that charge budgets.
-- ARGV: real0, house0, rate, version of facts and stops ('' for no contact whatever changed), ledger version, seal,
--       seconds the record is kept, decision id, record, number of recent decisions to remember, ledger entry ('' for no
--       contact), its last moment, then ledger entries that nothing can need any more.
-- `kept` makes what the store keeps of the entry's id and house time.
-- Returns reserved + stream id, replay + what is kept, moved, or short + the budget whose share is too small + what
-- is left of it; nothing is changed then.
local function commit(keys, args, kept)
  local held = redis.call('GET', keys[4])
  if held then return {'replay', held} end
  local facts, ledger = version_of(keys[1], keys[3]), redis.call('HGET', keys[2], 'v') or '0'
  if args[4] ~= '' and (facts ~= args[4] or ledger ~= args[5]) then return {'moved'} end
  local seal = redis.call('GET', keys[5])
  if seal and seal ~= args[6] then return {'moved'} end
  local entry = args[11]
  local charges = entry ~= '' and string.match(entry, '%S+$') or '-'
  for name, amount in string.gmatch(charges, '([^,=]+)=(%d+)') do
    local share = redis.call('HGET', keys[7], name) or '0'
    if tonumber(share) < tonumber(amount) then return {'short', name, share} end
  end
  if not seal then redis.call('SET', keys[5], args[6]) end
  local known = house_us(args[1], args[2], args[3])
  local id = append(keys[3], 'decision', args[9], known)
  touch_erased(keys[1])
  redis.call('SET', keys[4], kept(id, known), 'EX', args[7])
  redis.call('LPUSH', keys[6], args[8])
  redis.call('LTRIM', keys[6], 0, tonumber(args[10]) - 1)
  redis.call('EXPIRE', keys[6], args[7])
  if entry ~= '' then
    for n = 13, #args do redis.call('HDEL', keys[2], args[n]) end
    redis.call('HSET', keys[2], args[8], entry)
    redis.call('HINCRBY', keys[2], 'v', 1)
    for name, amount in string.gmatch(charges, '([^,=]+)=(%d+)') do redis.call('HINCRBY', keys[7], name, '-' .. amount) end
    if charges ~= '-' then redis.call('ZADD', keys[8], args[12], keys[2] .. ' ' .. args[8]) end
  end
  return {'reserved', id}
end

-- As the first builds call it: the record is kept, and nothing else.
local function reserve(keys, args)
  return commit(keys, args, function() return args[9] end)
end

-- ARGV: what the store keeps of the record ('' for all of it), then as above. The place of the entry stands before it.
local function decide(keys, args)
  local kept = table.remove(args, 1)
  return commit(keys, args, function(id, known)
    return table.concat({id, number(known), kept == '' and args[9] or kept}, ' ')
  end)
end

-- As above, of a contact that the house sends: it waits in the partition's sends from then on, and workers hear of it.
local function deliver(keys, args)
  local seconds, decision, send_us, state = args[8], args[9], string.match(args[12], '^(%d+) %d+ (%l+) ')
  local clock = {args[2], args[3], args[4]}
  local done = decide(keys, args)
  if done[1] == 'reserved' and state == 'reserved' then
    local send = send_key(keys[3], decision)
    redis.call('HSET', send, 'state', 'due', 'at', number(house_us(unpack(clock))), 'tries', '0')
    redis.call('EXPIRE', send, seconds)
    redis.call('ZADD', (string.gsub(keys[3], '^log', 'sends')), send_us, decision)
    redis.call('PUBLISH', 'croupier:sends', string.sub(decision, 1, 3))
  end
  return done
end

-- See `confirm`.
local function confirm_at(keys, args, now)
  local entry = redis.call('HGET', keys[2], args[5])
  if not entry then return {'unknown', number(now)} end
  local ledger = redis.call('HGET', keys[2], 'v') or '0'
  if version_of(keys[1], keys[3]) ~= args[4] or ledger ~= args[7] then return {'moved', number(now)} end
  local valid, state, what, at, rest = string.match(entry, '^%d+ (%d+) (%l+) (%S+ %S+ %S+ %S+) (%d+)(.*)$')
  if state ~= 'reserved' and state ~= 'confirmed' then return {state, number(now)} end
  if now > tonumber(valid) then return {'expired', number(now)} end
  if state == 'confirmed' then return {'confirmed', at} end
  redis.call('HSET', keys[2], args[5], table.concat({args[8], valid, 'confirmed', what, number(now)}, ' ') .. rest)
  redis.call('HINCRBY', keys[2], 'v', 1)
  append(keys[3], 'exposure', args[6], now)
  return {'confirmed', number(now)}
end

-- States of a contact that the house sends, or sent, or may have sent.
local SENDING = {attempted = true, sent = true, delivered = true, unknown = true}

-- KEYS: facts, ledger, log. ARGV: real0, house0, rate, version of facts and stops, decision id, body of the exposure,
-- ledger version, moment of sending that the caps were asked about.
-- A contact that is confirmed after its moment counts from now on at the later one; one that waits for the house to send
-- it is its caller's from now on.
-- Returns confirmed | moved | expired | released | revoked | sending | unknown, and the house time of the (first) confirm.
local function confirm(keys, args)
  local now = house_us(args[1], args[2], args[3])
  if SENDING[redis.call('HGET', send_key(keys[3], args[5]), 'state')] then return {'sending', number(now)} end
  local done = confirm_at(keys, args, now)
  if done[1] == 'confirmed' then withdraw(keys[3], args[5], now, 'confirmed by the caller') end
  return done
end

-- KEYS: facts, ledger, log, lease of the partition. ARGV: as `confirm`, then the lease's epoch, attempts that the caller
-- knows of, connector, moment until which its answer is awaited, and 1 where an attempt without an answer may be repeated.
-- Confirms a contact that the house sends and notes the attempt, in one: whoever dies from here on may have sent it.
-- Returns what `confirm` does, fenced if the partition has another owner, or taken if the message does not wait any more.
local function attempt(keys, args)
  local now = house_us(args[1], args[2], args[3])
  if redis.call('HGET', keys[4], 'epoch') ~= args[9] then return {'fenced', number(now)} end
  local send = send_key(keys[3], args[5])
  local state, tries = unpack(redis.call('HMGET', send, 'state', 'tries'))
  local waits = state == 'due' or (args[13] == '1' and (state == 'attempted' or state == 'unknown'))
  if not waits or tries ~= args[10] then return {'taken', number(now)} end
  local done = confirm_at(keys, args, now)
  if done[1] == 'confirmed' then
    redis.call('HSET', send, 'state', 'attempted', 'at', number(now), 'connector', args[11],
      'facts', version_of(keys[1], keys[3]))
    redis.call('HINCRBY', send, 'tries', 1)
    redis.call('ZADD', (string.gsub(keys[3], '^log', 'sends')), args[12], args[5])
  end
  return done
end

-- KEYS: facts, log, inbox or tasks of a player. ARGV: decision, what is kept, seconds to keep it after the last. Keeps a
-- message in the house, if it is under way and nothing was told of the player since it was confirmed: what forbids it
-- found nothing to recall. Returns 1, or 0.
local function keep(keys, args)
  local state, version = unpack(redis.call('HMGET', send_key(keys[2], args[1]), 'state', 'facts'))
  if state ~= 'attempted' or version ~= version_of(keys[1], keys[2]) then return 0 end
  redis.call('HSET', keys[3], args[1], args[2])
  redis.call('EXPIRE', keys[3], args[3])
  return 1
end

-- KEYS: what is known of sending a contact, sends of the partition. ARGV: decision id, the states from which it may go on,
-- each between blanks, attempts that the caller knows of ('' for any), when it is looked at again ('' for never), then
-- fields and values. Returns 1, or 0 where others were first.
local function go_on(keys, args)
  local state, tries = unpack(redis.call('HMGET', keys[1], 'state', 'tries'))
  if not state or not string.find(args[2], ' ' .. state .. ' ', 1, true) then return 0 end
  if args[3] ~= '' and args[3] ~= tries then return 0 end
  redis.call('HSET', keys[1], unpack(args, 5))
  if args[4] == '' then redis.call('ZREM', keys[2], args[1]) else redis.call('ZADD', keys[2], args[4], args[1]) end
  return 1
end

-- KEYS: facts, ledger, log, budget shares. ARGV: real0, house0, rate, player, channel whose leases the facts forbid, then
-- per fact field, moment, rank, text. Facts that the worker derives: merged like any other, so that telling them twice or
-- late changes nothing. Returns how many changed, or -1 if the id was linked to a player; while that mark may be taken away
-- again the facts hold here too.
local function assert_facts(keys, args)
  local linked = redis.call('HGET', keys[1], 'to')
  if linked and not string.find(linked, ' pending ', 1, true) then return -1 end
  local changed = assert_all(keys[1], args, 6, #args)
  if changed > 0 then
    redis.call('HINCRBY', keys[1], 'v', 1)
    local now = house_us(args[1], args[2], args[3])
    if args[5] ~= '' then revoke(keys[2], keys[3], keys[4], args[5], args[4], now) end
  end
  return linked and -1 or changed
end

-- KEYS: leases that charge budgets, budget shares, ledger. ARGV: real0, house0, rate, decision.
-- Gives back what a lease charged that ran out unconfirmed, once. Returns 1 if it did.
local function expire(keys, args)
  local entry = redis.call('HGET', keys[3], args[4])
  local valid, state = string.match(entry or '', '^%d+ (%d+) (%l+) ')
  if state == 'reserved' and house_us(args[1], args[2], args[3]) <= tonumber(valid) then return 0 end
  redis.call('ZREM', keys[1], keys[3] .. ' ' .. args[4])
  if state ~= 'reserved' then return 0 end
  redis.call('HSET', keys[3], args[4], (string.gsub(entry, '^(%d+ %d+) %l+ ', '%1 expired ')))
  redis.call('HINCRBY', keys[3], 'v', 1)
  give_back(keys[2], entry)
  return 1
end

-- KEYS: what is left to share of a budget's day. ARGV: the whole budget, least that helps, what is wanted, seconds to
-- remember the day. Returns what is granted: nothing beyond the whole, 0 if the least is not there.
local function grant(keys, args)
  local given = tonumber(redis.call('GET', keys[1]) or '0')
  local granted = math.min(tonumber(args[3]), tonumber(args[1]) - given)
  if granted < tonumber(args[2]) then return 0 end
  redis.call('SET', keys[1], number(given + granted), 'EX', args[4])
  return granted
end

-- KEYS: budget shares. ARGV: budget and day, amount to add to the partition's share (0: all is given out), then days that
-- are over.
local function credit(keys, args)
  if args[2] == '0' then
    redis.call('HSET', keys[1], 'dry ' .. args[1], '1')
  else
    redis.call('HINCRBY', keys[1], args[1], args[2])
  end
  for n = 3, #args do redis.call('HDEL', keys[1], args[n], 'dry ' .. args[n]) end
  return 1
end

-- KEYS: ledger of a household. ARGV: version it was read with ('' for any), name of the entry, entry ('' for none), entries
-- that no limit can need any more. Reserves a contact in the household. Returns 1, or 0 if others moved it.
local function reserve_in_household(keys, args)
  if args[1] ~= '' and (redis.call('HGET', keys[1], 'v') or '0') ~= args[1] then return 0 end
  for n = 4, #args do redis.call('HDEL', keys[1], args[n]) end
  if args[3] ~= '' then
    redis.call('HSET', keys[1], args[2], args[3])
    redis.call('HINCRBY', keys[1], 'v', 1)
  end
  return 1
end

-- KEYS: ledger of a household. ARGV: names of entries. Releases their capacity.
local function release_in_household(keys, args)
  if redis.call('HDEL', keys[1], unpack(args)) > 0 then redis.call('HINCRBY', keys[1], 'v', 1) end
  return 1
end

-- KEYS: ledger of a household. ARGV: number of entries that are over, these, then decision, entry pairs: a player's contacts
-- that the household lacks. What is there stays, unless the contact was confirmed since.
local function add_to_household(keys, args)
  local pairs_at = 2 + tonumber(args[1])
  for n = 2, pairs_at - 1 do redis.call('HDEL', keys[1], args[n]) end
  for at = pairs_at, #args, 2 do
    local sure = string.find(args[at + 1], ' confirmed ', 1, true)
    redis.call(sure and 'HSET' or 'HSETNX', keys[1], args[at], args[at + 1])
  end
  redis.call('HINCRBY', keys[1], 'v', 1)
  return 1
end

-- KEYS: facts, ledger of an id. ARGV: the player that it is merged into, and that player's name, sealed; none to read only.
-- Marks the id as merged, pending, unless it bears a mark: from now on every call for it is sent on to that player, and
-- what stands here stays as it is. Returns the mark ('' for none), facts, ledger.
local function begin_merge(keys, args)
  if args[1] and redis.call('HSETNX', keys[1], 'to', args[1] .. ' pending ' .. args[2]) == 1 then
    redis.call('HINCRBY', keys[1], 'v', 1)
    redis.call('HINCRBY', keys[2], 'v', 1)
  end
  return {redis.call('HGET', keys[1], 'to') or '', redis.call('HGETALL', keys[1]), redis.call('HGETALL', keys[2])}
end

-- KEYS: facts of an id. ARGV: the mark that it bears. Removes it: the marks of ids merged into each other form a cycle.
local function break_cycle(keys, args)
  if redis.call('HGET', keys[1], 'to') == args[1] then
    redis.call('HDEL', keys[1], 'to')
    redis.call('HINCRBY', keys[1], 'v', 1)
  end
  return 1
end

-- KEYS: facts of an id. ARGV: the mark that it bore when its merge was completed, its owner by now (by default the player
-- that the mark names). Marks the merge as done; another mark stays.
local function mark_done(keys, args)
  if redis.call('HGET', keys[1], 'to') == args[1] then
    local to, name = string.match(args[1], '^(%S+) %l+ (.*)$')
    redis.call('HSET', keys[1], 'to', (args[2] or to) .. ' done ' .. name)
  end
  return 1
end

-- The moment of a link: after now, and after all that was told until now by clocks that may be ahead by `skew`.
local function link_moment(facts, now, skew)
  local latest = now
  for _, held in ipairs(redis.call('HVALS', facts)) do
    local told = tonumber(string.match(held, '^(%-?%d+) %d+ '))
    if told and told > latest and told <= now + skew then latest = told end
  end
  return latest + 1
end

-- KEYS: facts, ledger, log, budget shares of a player. ARGV: real0, house0, rate, player, sealed name of the player ('' for
-- none), microseconds that clocks may be ahead, number of ids, ids, number of facts, per fact field, moment, rank, text, then
-- ledger names and entries.
-- Completes the merge of ids with pending marks, and of the ids linked to them; a second time changes nothing. Open leases
-- are revoked: they were drawn from less. Returns 1, or the mark of a player who was merged into another.
local function complete_merge(keys, args)
  local linked, now = redis.call('HGET', keys[1], 'to'), house_us(args[1], args[2], args[3])
  if linked then return linked end
  if args[5] ~= '' then redis.call('HSETNX', keys[1], 'name', args[5]) end
  local ids = tonumber(args[7])
  local first = 9 + ids
  local at = first + tonumber(args[first - 1]) * 4
  local changed = assert_all(keys[1], args, first, at - 1)
  local since = number(link_moment(keys[1], now, tonumber(args[6])))
  for n = 8, 7 + ids do changed = changed + redis.call('HSETNX', keys[1], 'link:' .. args[n], since .. ' 0 linked') end
  for n = at, #args, 2 do changed = changed + redis.call('HSETNX', keys[2], args[n], args[n + 1]) end
  if changed > 0 then
    redis.call('HINCRBY', keys[1], 'v', 1)
    redis.call('HINCRBY', keys[2], 'v', 1)
    revoke(keys[2], keys[3], keys[4], '*', args[4], now)
  end
  return 1
end

-- Notes that the stops of a partition changed: the version is the store's time, so that it never comes back.
local function changed_stops(stops)
  local before = tonumber(redis.call('HGET', stops, 'v') or '0')
  redis.call('HSET', stops, 'v', number(math.max(before + 1, real_us())))
end

-- KEYS: stops of a partition. ARGV: id, text. Writes a stop: from now on nothing that was made without it is committed or
-- confirmed. Returns 0 if it stood there already, which changes nothing.
local function stop(keys, args)
  if redis.call('HGET', keys[1], args[1]) == args[2] then return 0 end
  redis.call('HSET', keys[1], args[1], args[2])
  changed_stops(keys[1])
  return 1
end

-- KEYS: stops of a partition. ARGV: ids of stops that were lifted. Removes them, and the key with the last. Returns how
-- many stood.
local function lift(keys, args)
  local gone = redis.call('HDEL', keys[1], unpack(args))
  if gone > 0 then
    if redis.call('HLEN', keys[1]) == 1 then redis.call('DEL', keys[1]) else changed_stops(keys[1]) end
  end
  return gone
end

-- KEYS: journal of stops. ARGV: what is stopped, id, text. Enters a stop, unless one that stops the same stands.
-- Returns the text of the one that stands, or nothing where the id is taken.
local function enter_stop(keys, args)
  local standing = redis.call('HGET', keys[1], 'stands ' .. args[1])
  if standing then return redis.call('HGET', keys[1], standing) end
  if redis.call('HEXISTS', keys[1], args[2]) == 1 then return '' end
  redis.call('HSET', keys[1], args[2], args[3], 'stands ' .. args[1], args[2])
  return args[3]
end

-- KEYS: journal of stops. ARGV: id, what it stops, who lifts it and why. Notes that a stop was lifted, once.
-- Returns who lifted it first, and why.
local function enter_lift(keys, args)
  local lifted, stands = 'lifted ' .. args[1], 'stands ' .. args[2]
  redis.call('HSETNX', keys[1], lifted, args[3])
  if redis.call('HGET', keys[1], stands) == args[1] then redis.call('HDEL', keys[1], stands) end
  return redis.call('HGET', keys[1], lifted)
end

-- KEYS: seal. ARGV: a fresh key. Returns the player's key, created if there was none.
local function seal(keys, args)
  redis.call('SET', keys[1], args[1], 'NX')
  return redis.call('GET', keys[1])
end

-- KEYS: any. ARGV: the value that it has, another one. Returns 1 if it has the other one now, 0 if it had neither.
local function exchange(keys, args)
  local held = redis.call('GET', keys[1])
  if held == args[1] then redis.call('SET', keys[1], args[2], 'KEEPTTL') end
  return (held == args[1] or held == args[2]) and 1 or 0
end

-- Takes out all that waits to be sent to a player, whatever its purpose, and all that is known of what was sent.
local function forget_sends(keys, entries)
  local decisions = redis.call('LRANGE', keys[6], 0, -1)
  for at = 1, #entries, 2 do decisions[#decisions + 1] = entries[at] end
  for _, decision in ipairs(decisions) do
    redis.call('ZREM', (string.gsub(keys[4], '^log', 'sends')), decision)
    redis.call('DEL', send_key(keys[4], decision))
  end
  redis.call('DEL', (string.gsub(keys[3], '^ledger', 'inbox')), (string.gsub(keys[3], '^ledger', 'tasks')))
end

-- KEYS: facts, features, ledger, log, seal, recent decisions, budget shares. ARGV: real0, house0, rate, player, a fresh seal,
-- name of the erasure, then ledger entries that nothing can need any more.
-- Erases one id: its seal is replaced, so that nothing sealed before can be opened and no decision under way can be
-- committed, and open leases are revoked. What restricts contact stays, and so do links, for it holds for all of them, and
-- contacts that limits count. The entry of the log is what features start from: older ones count for nothing.
-- Returns its house time, leases revoked, facts that were taken away, facts that stay, and the mark of a linked id.
local function erase(keys, args)
  local now, player = house_us(args[1], args[2], args[3]), args[4]
  local revoked = revoke(keys[3], keys[4], keys[7], '*', player, now)
  local taken, staying, held = 0, 0, redis.call('HGETALL', keys[1])
  for at = 1, #held, 2 do
    local field, value = held[at], held[at + 1]
    local moment, rank, text = string.match(value, '^(%-?%d+) (%d+) (.*)$')
    if field == 'name' then
      redis.call('HDEL', keys[1], field)
    elseif field == 'to' then
      redis.call('HSET', keys[1], field, (string.gsub(value, '^(%S+ %l+) .*$', '%1 -')))
    elseif field ~= 'v' and field ~= 'erased' and string.sub(field, 1, 5) ~= 'link:' then
      local kept = moment and suppressing(field, tonumber(rank), text, now)
      if kept then
        staying = staying + 1
        if kept ~= text then redis.call('HSET', keys[1], field, moment .. ' ' .. rank .. ' ' .. kept) end
      else
        taken = taken + 1
        redis.call('HDEL', keys[1], field)
      end
    end
  end
  local entries = redis.call('HGETALL', keys[3])
  forget_sends(keys, entries)
  for at = 1, #entries, 2 do
    local state = string.match(entries[at + 1], '^%d+ %d+ (%l+) ')
    if state == 'released' or state == 'expired' then redis.call('HDEL', keys[3], entries[at]) end
  end
  for n = 7, #args do redis.call('HDEL', keys[3], args[n]) end
  redis.call('HINCRBY', keys[1], 'v', 1)
  redis.call('HINCRBY', keys[3], 'v', 1)
  redis.call('SET', keys[5], args[5])
  redis.call('DEL', keys[2], keys[6])
  local row = {player = player, event_id = args[6], type = 'erased', occurred_at = now, brand = 'main'}
  local id = append(keys[4], 'facts', cmsgpack.pack(row), now)
  redis.call('HSET', keys[1], 'erased', number(now) .. ' ' .. id .. ' quiet')
  redis.call('HSET', keys[2], '_applied', id)
  return {number(now), revoked, taken, staying, redis.call('HGET', keys[1], 'to') or ''}
end

redis.register_function('croupier_ingest', ingest)
redis.register_function{function_name = 'croupier_view', callback = view, flags = {'no-writes'}}
redis.register_function('croupier_reserve', reserve)
redis.register_function('croupier_decide', decide)
redis.register_function('croupier_deliver', deliver)
redis.register_function('croupier_confirm', confirm)
redis.register_function('croupier_attempt', attempt)
redis.register_function('croupier_keep', keep)
redis.register_function('croupier_go_on', go_on)
redis.register_function('croupier_grant', grant)
redis.register_function('croupier_credit', credit)
redis.register_function('croupier_exchange', exchange)

-- What restricts contact, or makes room, is taken by a store whose memory is full, too.
local function always(name, callback)
  redis.register_function{function_name = name, callback = callback, flags = {'allow-oom'}}
end
always('croupier_restrict', ingest)
always('croupier_seal', seal)
always('croupier_erase', erase)
always('croupier_assert', assert_facts)
always('croupier_expire', expire)
always('croupier_hold', reserve_in_household)
always('croupier_let_go', release_in_household)
always('croupier_join', add_to_household)
always('croupier_freeze', begin_merge)
always('croupier_thaw', break_cycle)
always('croupier_settle', mark_done)
always('croupier_adopt', complete_merge)
always('croupier_stop', stop)
always('croupier_lift', lift)
always('croupier_enter_stop', enter_stop)
always('croupier_enter_lift', enter_lift)
