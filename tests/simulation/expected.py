"""What must have happened somewhere in a long run, or the run has shown nothing about it."""

from __future__ import annotations

from collections import Counter
from typing import Final

SEEDS_ENOUGH: Final = 500
"""From so many seeds on every kind of event is expected."""

_FAULTS: Final = """
crash; pause; go on; partition; stop gently; exit; clock jump; database crash; session ended idle
committed by recovery; lock wait; slow commit; disconnect
client left at the answer; charge pending; call aborted
wire lost request; wire lost answer; wire lost request in silence; wire lost answer in silence
sqlstate 55P03; sqlstate 25P03; sqlstate 40P01; sqlstate 40001; sqlstate 57014; sqlstate 57P01
sqlstate 53300; sqlstate 22003; BatchStoreLostError; BatchUnsettledError; BatchRejectedError
console key; console archive; console suspend; console policy; console prices
"""

_ANSWERED_BY: Final = """
batch resent; batch from memory; not as remembered
batch of several; batch of several organizations; order sent again
submit QuarantinedError; submit UnavailableError; node lost; renewal refused; fence
sweep; sweep paused; sweep failed; lapse node_gone; lapse latest_end; late settle
admission taken back; admitted after waiting; admitted without a limit of its own
exactly the ceiling; below the ceiling; overrun charged; overrun absorbed; overrun owed
draw from an ended grant; books check
posting calls; posting late; posting grant; posting repayment; posting breakage; posting refund
posting dispute_lost; posting dispute_won; posting correction
"""

_ANSWERS: Final = """
admit admitted; admit exists; admit balance_held; admit credit_balance_exhausted
admit credit_balance_expired
admit stale_epoch; admit stale_catalogue; admit key_revoked; admit project_archived
admit organization_suspended; admit rate_limit_exceeded; admit organization_spend_limit_exceeded
admit organization_token_limit_exceeded; admit organization_call_limit_exceeded
admit key_spend_limit_exceeded; admit user_spend_limit_exceeded; admit tag_spend_limit_exceeded
admit organization_usage_limit_exceeded; admit credit_set_aside
admit run_time_limit_exceeded; admit run_depth_limit_exceeded
extend done; extend exists; extend balance_held; extend credit_balance_exhausted
extend organization_spend_limit_exceeded; extend rate_limit_exceeded; extend hold_not_found
report done; report hold_not_found; settle closed; settle exists; release closed; release exists
grantcredit granted; grantcredit exists; refund done; refund exists; refund not_refundable
dispute done; dispute exists; correct done; correct exists
setlimit done; setlimit exists; setfloor done; setzone done; setzone exists; forget done
client whole; client broken; client pending; client away; client refused; client gone
"""

EXPECTED: Final = tuple(
    kind.strip()
    for lines in (_FAULTS, _ANSWERED_BY, _ANSWERS)
    for line in lines.split("\n")
    for kind in line.split(";")
    if kind.strip()
)


def missing(counts: Counter[str]) -> list[str]:
    """Kinds of events that never happened."""
    return [kind for kind in EXPECTED if not counts[kind]]
