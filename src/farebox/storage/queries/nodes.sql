-- Nodes, their heartbeats, and the holds that the sweep must end. All by the real clock.

-- name: register_node
INSERT INTO node (id, epoch, name) VALUES (%(id)s, 1, %(name)s)
ON CONFLICT (id) DO UPDATE SET epoch = node.epoch + 1, seen_at = clock_timestamp()
RETURNING epoch

-- name: renew_node
UPDATE node SET seen_at = clock_timestamp() WHERE id = %(id)s AND epoch = %(epoch)s RETURNING epoch

-- name: fence_silent_nodes
-- A node that was last seen in the future is silent too: the clock went back since, and whoever
-- lives has renewed by the new one before the sweep asks again. Had the clock jumped since the sweep
-- looked at it, nobody could have renewed by it.
UPDATE node SET epoch = epoch + 1
WHERE (seen_at < clock_timestamp() - %(silence)s::interval
       OR seen_at > clock_timestamp() + %(silence)s::interval)
  AND clock_timestamp() BETWEEN %(looked_at)s::timestamptz - %(jump_max)s::interval
                            AND %(looked_at)s::timestamptz + %(jump_max)s::interval
  AND EXISTS (SELECT FROM hold h WHERE h.node_id = node.id AND h.epoch = node.epoch)
RETURNING id, name

-- name: retire_node
UPDATE node SET epoch = epoch + 1 WHERE id = %(id)s AND epoch = %(epoch)s

-- name: forget_old_nodes
DELETE FROM node n WHERE n.seen_at < clock_timestamp() - interval '35 days'
  AND NOT EXISTS (SELECT FROM hold h WHERE h.node_id = n.id)

-- name: holds_to_lapse
-- A hold whose end the database rejected stays until an operator rules on it.
SELECT h.organization_id, h.call_id, h.node_id, h.epoch,
       (n.epoch IS NULL OR n.epoch <> h.epoch) AS node_gone
FROM hold h LEFT JOIN node n ON n.id = h.node_id
WHERE (n.epoch IS NULL OR n.epoch <> h.epoch OR h.latest_end <= farebox_now())
  AND NOT EXISTS (SELECT FROM quarantine q WHERE q.ruled_at IS NULL
                  AND q.organization_id = h.organization_id
                  AND q.command_kind IN ('settle', 'release', 'lapse')
                  AND q.command ->> 'call_id' = h.call_id::text)
-- The first of every organisation before the second of any: one that is stuck keeps no other.
ORDER BY row_number() OVER (PARTITION BY h.organization_id ORDER BY h.call_id), h.call_id
LIMIT %(limit)s

-- name: grants_to_expire
SELECT DISTINCT organization_id FROM credit_grant
WHERE has_money AND expires_at <= farebox_now() AND state = 'open'
  AND remaining_nanos - reserved_nanos - frozen_nanos > 0
LIMIT %(limit)s

-- name: real_time
SELECT clock_timestamp()

-- name: make_partitions
-- By engine time, as ids are: a sandbox's clock may be years ahead.
SELECT farebox_make_partitions(farebox_now() - interval '1 month', 5)

-- name: catalogue_now
SELECT c.revision, farebox_now(), d.revision FROM catalogue c, directory d
