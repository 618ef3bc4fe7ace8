#!lua name=croupier_consume
-- The consumer's side of a partition: who owns it, how far it got, what it made of a player.

local function real_us()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000000 + tonumber(t[2])
end

-- KEYS: lease. ARGV: owner, microseconds to hold it, and the watermark of one who holds it already ('' for none):
-- the moment before the owner last read the log to its end and applied it. A new owner gets a higher epoch, which
-- fences the old one. A lease that runs longer than any is given was given by a clock that has been set back since:
-- whoever holds it renews it within a second, and one who died must not hold it until the clock is there again.
-- Returns epoch and cursor, or 0 while another owner holds the partition.
local function lease(keys, args)
  local owner, till = unpack(redis.call('HMGET', keys[1], 'owner', 'until'))
  local now = real_us()
  if owner ~= args[1] then
    if owner and tonumber(till) > now and tonumber(till) <= now + tonumber(args[2]) then return 0 end
    redis.call('HINCRBY', keys[1], 'epoch', 1)
  elseif args[3] and args[3] ~= '' then
    redis.call('HSET', keys[1], 'watermark', args[3])
  end
  redis.call('HSET', keys[1], 'owner', args[1], 'until', string.format('%.0f', now + tonumber(args[2])))
  return {redis.call('HGET', keys[1], 'epoch'), redis.call('HGET', keys[1], 'cursor') or '0-0'}
end

local function fenced(lease_key, epoch)
  return redis.call('HGET', lease_key, 'epoch') ~= epoch
end

-- KEYS: lease, features. ARGV: epoch, last stream id applied, then field, value pairs.
-- Returns 1, or 0 if the caller no longer owns the partition.
local function apply(keys, args)
  if fenced(keys[1], args[1]) then return 0 end
  redis.call('HSET', keys[2], '_applied', unpack(args, 2))
  return 1
end

-- KEYS: lease, features. ARGV: epoch, last stream id applied as the features were read ('' for none), then as above.
-- Returns 1, or 0 if the caller no longer owns the partition or the features were replaced since: the player was erased.
local function fold(keys, args)
  if (redis.call('HGET', keys[2], '_applied') or '') ~= args[2] then return 0 end
  table.remove(args, 2)
  return apply(keys, args)
end

-- KEYS: lease, features. ARGV: epoch, last stream id applied as the features were read, number of views, of each its field
-- and what stood there, then as for `apply`: of the fields, those that change. Returns as `fold`, and 0 also where Feast
-- wrote a view since.
local function amend(keys, args)
  local first = 4 + 2 * tonumber(args[3])
  for at = 4, first - 1, 2 do
    if redis.call('HGET', keys[2], args[at]) ~= args[at + 1] then return 0 end
  end
  if fenced(keys[1], args[1]) or redis.call('HGET', keys[2], '_applied') ~= args[2] then return 0 end
  redis.call('HSET', keys[2], '_applied', unpack(args, first))
  return 1
end

-- KEYS: lease. ARGV: epoch, cursor, watermark ('' for none). Returns 1, or 0 if fenced.
local function advance(keys, args)
  if fenced(keys[1], args[1]) then return 0 end
  redis.call('HSET', keys[1], 'cursor', args[2])
  if args[3] ~= '' then redis.call('HSET', keys[1], 'watermark', args[3]) end
  return 1
end

-- KEYS: lease. ARGV: owner. Gives a partition back at once.
local function release(keys, args)
  if redis.call('HGET', keys[1], 'owner') == args[1] then redis.call('HSET', keys[1], 'until', '0') end
  return 1
end

-- KEYS: log. ARGV: boundary id. After this no entry at or before the boundary can be appended, whatever the
-- clock does.
local function close(keys, args)
  if redis.call('EXISTS', keys[1]) == 0 then
    redis.call('XADD', keys[1], '0-1', 'k', 'none')
    redis.call('XDEL', keys[1], '0-1')
  end
  redis.pcall('XSETID', keys[1], args[1])
  return 1
end

-- A store whose memory is full takes all of it: what lake and features have, the log is trimmed of.
local function always(name, callback)
  redis.register_function{function_name = name, callback = callback, flags = {'allow-oom'}}
end
always('croupier_lease', lease)
always('croupier_apply', apply)
always('croupier_fold', fold)
always('croupier_amend', amend)
always('croupier_advance', advance)
always('croupier_release', release)
always('croupier_close', close)
