-- Days of usage that are over are added up (migration 0010 says how they stay exact).

-- name: bound_locks
-- Watching waits for whoever writes usage just now; nobody is to stand in line behind it for long.
SELECT set_config('lock_timeout', %(milliseconds)s::text, true)

-- name: watch
SELECT farebox_watch_days(date_trunc('day', farebox_now() - %(after)s::interval, 'UTC'))

-- name: list
SELECT farebox_list_days(%(days)s)

-- name: due
SELECT organization_id, day FROM summed_day WHERE NOT is_summed
ORDER BY day, organization_id LIMIT %(limit)s

-- name: sum
SELECT farebox_sum_day(%(organization_id)s, %(day)s)
