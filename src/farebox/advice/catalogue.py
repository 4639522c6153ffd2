"""What each finding means and what to do about it, apart from any figures.

The texts are for people who read about a finding before or after it was theirs: the console's page
of a code and ``farebox doctor D12`` show them.
"""

from __future__ import annotations

from typing import Final

import msgspec

from farebox.advice.codes import Area, Code, Step


class Entry(msgspec.Struct, frozen=True):
    """What the catalogue says of a code."""

    name: str
    """For machines."""
    area: Area
    step: Step
    title: str
    meaning: str
    remedy: str


_BILLING, _OTHER = Area.API_BILLING, Area.NOT_BILLING

CATALOGUE: Final = {
    Code.D01: Entry(
        "subscription_is_not_credit",
        Area.SUBSCRIPTION,
        Step.ACCOUNT,
        "A subscription is no API credit",
        "A seat in a chat product (ChatGPT Plus, Pro, Team) and API credit are two purses: paying "
        "for one never fills the other.",
        "Add credit to the organisation that the key belongs to; leave the subscription as it is.",
    ),
    Code.D02: Entry(
        "credit_in_another_organization",
        _BILLING,
        Step.ORGANIZATION,
        "The credit is in another organisation",
        "Credit belongs to one organisation and pays for the calls of its keys alone; it cannot be "
        "moved.",
        "Use a key of the organisation that has the credit, or fund the one whose key it is.",
    ),
    Code.D04: Entry(
        "key_not_valid",
        _OTHER,
        Step.KEY,
        "The key opens nothing",
        "The key is mistyped, revoked, expired, of another installation, or missing. The balance "
        "has nothing to do with it.",
        "Use a key that is active, or make a new one.",
    ),
    Code.D05: Entry(
        "organization_header_differs",
        _OTHER,
        Step.ORGANIZATION,
        "The organisation header is not the key's",
        "The request names an organisation (OpenAI-Organization or OpenAI-Project) that is not the "
        "one of its key.",
        "Remove the header: the key says whose call it is.",
    ),
    Code.D06: Entry(
        "model_not_available",
        _OTHER,
        Step.MODEL,
        "The model cannot be called",
        "The model's name is unknown here, has no price in the organisation's currency or in the "
        "tier that was asked for, or the project may not use it.",
        "Name a model that is listed, or have this one added or allowed.",
    ),
    Code.D07: Entry(
        "permission_missing",
        _OTHER,
        Step.KEY,
        "The permission is missing",
        "Who asked may not do this: the role, or the kind of key, does not reach so far.",
        "Ask an owner of the organisation, or use a key of the right kind.",
    ),
    Code.D11: Entry(
        "credit_expired",
        _BILLING,
        Step.BALANCE,
        "The credit has expired",
        "The last credit ended on its date with money left on it. Expired credit is not used "
        "credit, and its end cannot be moved.",
        "Add credit, in amounts that are used before they end.",
    ),
    Code.D12: Entry(
        "credit_used_up",
        _BILLING,
        Step.BALANCE,
        "The credit is used up",
        "Calls have spent it: it did not expire.",
        "See what spent it, then reduce that or add credit.",
    ),
    Code.D13: Entry(
        "balance_negative",
        _BILLING,
        Step.BALANCE,
        "The balance is negative",
        "More was charged than there was credit (a delayed cut-off, a lost dispute or a "
        "correction); the next purchase pays that first.",
        "Add more than what is owed; what is left over is what calls may use.",
    ),
    Code.D17: Entry(
        "rate_limited",
        _BILLING,
        Step.LIMITS,
        "A rate limit, not money",
        "More requests, tokens or parallel calls than the window allows. A balance does not help, "
        "and it passes by itself.",
        "Wait for retry-after, send less at once, or raise the rate.",
    ),
    Code.D18: Entry(
        "project_limit_reached",
        _BILLING,
        Step.LIMITS,
        "The project's limit is reached",
        "A limit on this project stops its calls; other projects go on.",
        "Raise the project's limit, or wait until its window ends.",
    ),
    Code.D19: Entry(
        "organization_limit_reached",
        _BILLING,
        Step.LIMITS,
        "The organisation's limit is reached",
        "A limit that the organisation set for itself stops its calls, whatever the balance is.",
        "Raise the limit, or wait until its window ends.",
    ),
    Code.D20: Entry(
        "assigned_limit_reached",
        _BILLING,
        Step.LIMITS,
        "The limit of the usage tier is reached",
        "The tier that the organisation is in allows so much use in a month, whatever its balance.",
        "Reach the next tier, ask the operator for it, or wait for the next month.",
    ),
    Code.D21: Entry(
        "own_limit_reached",
        _BILLING,
        Step.LIMITS,
        "A limit of this key, user, feature or run is reached",
        "A limit narrower than the project stops these calls; others go on.",
        "Ask the limit's owner to raise it, or wait until its window ends.",
    ),
    Code.D22: Entry(
        "project_allocation_used_up",
        _BILLING,
        Step.LIMITS,
        "The project's allocation is used up",
        "The part of the balance that was set aside for this project is spent, while the "
        "organisation still has money.",
        "Move more of the organisation's balance to the project.",
    ),
    Code.D42: Entry(
        "upstream_credit_used_up",
        _OTHER,
        Step.ACCOUNT,
        "The operator's own credit at the provider is used up",
        "The model provider refuses this installation's account. No tenant's balance is the cause, "
        "and no tenant can mend it.",
        "The operator adds credit at the provider, or another provider is used.",
    ),
    Code.D43: Entry(
        "spend_jumped",
        _BILLING,
        Step.USE,
        "Spending has jumped",
        "The last day cost several times what days cost before.",
        "See which key and model it is; stop or limit them if nobody meant it.",
    ),
    Code.D46: Entry(
        "free_credit_first",
        _BILLING,
        Step.USE,
        "Free credit is spent before purchased credit",
        "Free, promotional and adjustment credit goes first, so the balance falls while purchased "
        "credit stands still.",
        "Nothing: look at the whole balance, not at one grant.",
    ),
    Code.D47: Entry(
        "credit_ends_on_its_date",
        _BILLING,
        Step.BALANCE,
        "Credit ends on its date",
        "Every grant has an end; what is left then is gone, and it is shown as expired, not used.",
        "Buy what is used in time; spend what ends first.",
    ),
    Code.D61: Entry(
        "organization_suspended",
        _BILLING,
        Step.ORGANIZATION,
        "The organisation is suspended",
        "An operator has switched the organisation off; every call of it is refused.",
        "The operator switches it on again.",
    ),
    Code.D62: Entry(
        "project_archived",
        _OTHER,
        Step.PROJECT,
        "The key's project is archived",
        "The keys of an archived project open nothing.",
        "Use a key of another project.",
    ),
    Code.D63: Entry(
        "held_by_open_calls",
        _BILLING,
        Step.BALANCE,
        "Open calls hold the money",
        "There is enough, but calls that are running have it set aside for their worst case; it "
        "comes back as they end.",
        "Try again in a moment; name smaller output limits so that calls hold less.",
    ),
    Code.D64: Entry(
        "call_needs_more",
        _BILLING,
        Step.BALANCE,
        "The call needs more than there is",
        "There is credit, but this call's worst case is larger: its input and the output it may "
        "ask for.",
        "Name a smaller output limit or send less; or add credit.",
    ),
    Code.D65: Entry(
        "no_credit_yet",
        _BILLING,
        Step.BALANCE,
        "There has never been any credit",
        "An organisation begins without credit.",
        "Add credit.",
    ),
    Code.D66: Entry(
        "credit_frozen",
        _BILLING,
        Step.BALANCE,
        "The credit is frozen by a dispute",
        "The payment behind this credit is disputed; until that ends, it cannot be used.",
        "Settle the dispute, or use other credit.",
    ),
    Code.D67: Entry(
        "credit_begins_later",
        _BILLING,
        Step.BALANCE,
        "The credit begins later",
        "Credit has been given, but its first day has not come.",
        "Wait for its date, or add credit that begins now.",
    ),
    Code.D68: Entry(
        "request_not_accepted",
        _OTHER,
        Step.ERROR,
        "The request itself is not accepted",
        "The request is malformed, too large, or asks for something that is not there. It is no "
        "billing matter.",
        "Mend the request as the error says.",
    ),
    Code.D69: Entry(
        "provider_failed",
        _OTHER,
        Step.ERROR,
        "The model provider failed",
        "The provider was overloaded, did not answer, broke off or answered with an error.",
        "Try again later, with growing pauses; use another model if it lasts.",
    ),
    Code.D70: Entry(
        "provider_refuses_credentials",
        _OTHER,
        Step.ACCOUNT,
        "The provider refuses this installation's key",
        "The operator's own key at the model provider is not accepted.",
        "The operator replaces it.",
    ),
    Code.D71: Entry(
        "billing_unavailable",
        _OTHER,
        Step.ACCOUNT,
        "Billing is away",
        "The database could not be reached or the node had lost its place, so nothing could be "
        "charged and nothing may run.",
        "Try again; the operator looks after the database if it lasts.",
    ),
    Code.D72: Entry(
        "no_gateway",
        _OTHER,
        Step.ACCOUNT,
        "No gateway is running",
        "No gateway has been seen for a while, so no call can be answered.",
        "Start one.",
    ),
    Code.D73: Entry(
        "nothing_on_sale",
        _OTHER,
        Step.ACCOUNT,
        "No model is on sale",
        "There is no provider, or no price, so every call is refused.",
        "Add a provider and bring in prices.",
    ),
    Code.D74: Entry(
        "holds_not_ended",
        _OTHER,
        Step.ACCOUNT,
        "Holds that should have ended are still open",
        "Calls whose node is gone or whose time is up still hold money: nobody ends them.",
        "Start a worker.",
    ),
    Code.D75: Entry(
        "command_rejected",
        _OTHER,
        Step.ACCOUNT,
        "A command waits for a ruling",
        "The database rejected the end of a call; its hold stays until the operator rules on it.",
        "The operator looks at it and rules.",
    ),
    Code.D76: Entry(
        "books_broken",
        _BILLING,
        Step.ACCOUNT,
        "The books do not agree",
        "A total is not the sum of its rows. Until that is understood, no figure here is certain.",
        "Keep a copy of the database as it is, and look at each difference.",
    ),
    Code.D77: Entry(
        "overrun_absorbed",
        _BILLING,
        Step.USE,
        "A call used more than it held",
        "The provider billed more than the call's worst case allowed; what did not fit was borne "
        "by the operator.",
        "Nothing for the tenant; the operator looks at the model's bounds.",
    ),
    Code.D78: Entry(
        "call_ended_early",
        _OTHER,
        Step.ERROR,
        "The call did not come to its ordinary end",
        "The client went away, the time was up, or the gateway ended in the middle of it; it was "
        "charged for what was metered.",
        "See the reason.",
    ),
    Code.D79: Entry(
        "charge_estimated",
        _BILLING,
        Step.USE,
        "The charge is an estimate",
        "The provider's answer had no usage, or one that cannot be right, so the tokens were "
        "counted here.",
        "Nothing, if it is rare; ask for usage in streams where a provider leaves it out.",
    ),
    Code.D80: Entry(
        "region_not_supported",
        _OTHER,
        Step.ERROR,
        "The region is not supported",
        "The provider does not serve the country that the request came from.",
        "Call from a supported region.",
    ),
    Code.D81: Entry(
        "not_known_here",
        _OTHER,
        Step.ERROR,
        "Nothing here has that id",
        "The id is of another installation, of the model provider itself, or mistyped.",
        "Take the x-request-id of an answer of this gateway.",
    ),
    Code.D82: Entry(
        "not_understood",
        _OTHER,
        Step.ERROR,
        "The doctor does not understand this",
        "It is no id, no error and no organisation that is known here.",
        "Give a request id, an error as it was received, a key's first letters or an organisation.",
    ),
    Code.D83: Entry(
        "fault_here",
        _OTHER,
        Step.ERROR,
        "Something went wrong in the gateway",
        "A fault of Farebox itself, not of the request.",
        "Try again; send the request id to the operator, whose log has the details.",
    ),
    Code.D84: Entry(
        "payment_failed",
        _BILLING,
        Step.PAYMENT,
        "A payment failed",
        "The card, the bank or the payment processor refused a payment; no credit was added.",
        "Read the reason and mend it before the next attempt; never repeat it at once.",
    ),
    Code.D85: Entry(
        "no_usable_key",
        _OTHER,
        Step.KEY,
        "The organisation has no usable key",
        "Without an active key of an active project nobody can call.",
        "Make a key.",
    ),
    Code.D86: Entry(
        "call_running",
        _BILLING,
        Step.ERROR,
        "The call is still running",
        "Its worst case is held; it is charged when it ends.",
        "Wait for its end.",
    ),
    Code.D87: Entry(
        "error_from_elsewhere",
        _OTHER,
        Step.ERROR,
        "This error did not come from this gateway",
        "Nothing like it was refused here: the client probably talks to the provider directly, "
        "with another key and another purse.",
        "Point the client's base_url at this gateway.",
    ),
    Code.D88: Entry(
        "credit_set_aside",
        _BILLING,
        Step.BALANCE,
        "What is left is set aside for other projects",
        "The organisation has credit, but allocations keep it for other projects; this project may "
        "not use it.",
        "Lower another project's allocation, or add credit.",
    ),
    Code.D89: Entry(
        "stopped_until_released",
        _BILLING,
        Step.LIMITS,
        "The run or the key was stopped",
        "It sent near-identical requests at a rate that looks like a loop, or somebody stopped it: "
        "its calls are refused until it is released. Nothing is wrong with the credit.",
        "Find out why it repeats itself, then release it.",
    ),
    Code.D90: Entry(
        "project_without_owner",
        _OTHER,
        Step.PROJECT,
        "A project has no owner",
        "Nobody is named who can be asked about it: when its spending jumps or its keys must "
        "change, everybody has to search first. Its calls go on all the same.",
        "Name an owner, and what the project is for.",
    ),
}
"""Code -> what it says."""


def entry_of(code: Code) -> Entry:
    """What the catalogue says of a finding."""
    return CATALOGUE[code]


def code_named(text: str) -> Code | None:
    """The finding that a text names, as ``D12`` or ``credit_used_up``."""
    wanted = text.strip()
    return next(
        (c for c in Code if wanted.upper() == c or wanted.lower() == CATALOGUE[c].name), None
    )
