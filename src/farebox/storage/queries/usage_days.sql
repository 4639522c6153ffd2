-- Days of usage that are over are added up (migration 0010 says how they stay exact).

-- name: watch
-- Watching waits for whoever writes usage just now, and nobody is to stand in line behind it for
-- long. So it is one statement, which no process can leave open, and bounds its wait. A vacuum gives
-- way to those alone who wait longer, and may take an hour: until it is over nothing is asked for.
SELECT farebox_watch_days(d.until)
FROM set_config('lock_timeout', %(milliseconds)s::text, true),
    date_trunc('day', farebox_now() - %(after)s::interval, 'UTC') AS d (until)
WHERE d.until > (SELECT watched_until FROM watched_days)
  AND NOT EXISTS (SELECT FROM pg_locks WHERE relation = 'rollup_hour'::regclass
                  AND mode = 'ShareUpdateExclusiveLock'
                  AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))

-- name: list
SELECT farebox_list_days(%(days)s)

-- name: due
SELECT organization_id, day FROM summed_day WHERE NOT is_summed
ORDER BY day, organization_id LIMIT %(limit)s

-- name: sum
SELECT farebox_sum_day(%(organization_id)s, %(day)s)
