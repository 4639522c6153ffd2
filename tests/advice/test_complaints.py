"""Reading what people paste."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox.advice.codes import Code
from farebox.advice.complaints import Subject, read_complaint, read_error, redacted
from farebox.advice.error_codes import finding_of
from farebox.tenancy.api_keys import KeyKind, digest, make_key

KEY = make_key(KeyKind.LIVE, bytes(32))
HEX = "0192f0000000700080000000000000aa"


@pytest.mark.parametrize(
    ("text", "subject"),
    [
        (f"req_{HEX}", Subject.CALL),
        (f"  req_{HEX}\n", Subject.CALL),
        (HEX, Subject.CALL),
        (f"org_{HEX}", Subject.ORGANIZATION),
        (f"proj_{HEX}", Subject.PROJECT),
        (f"key_{HEX}", Subject.KEY),
        (f"grant_{HEX}", Subject.GRANT),
        ("fbx_live_1111", Subject.KEY),
        ("fbx_test_ab…", Subject.KEY),
        ("sk-proj-abcdef", Subject.KEY),
        ("D12", Subject.FINDING),
        ("credit_used_up", Subject.FINDING),
        ("Why? I pay for ChatGPT Plus every month", Subject.SUBSCRIPTION),
        ("cancel my subscription", Subject.SUBSCRIPTION),
        ("Acme", Subject.NAME),
        ("", Subject.UNKNOWN),
        ("x" * 400, Subject.UNKNOWN),
        ("req_0192f00000", Subject.UNKNOWN),
    ],
)
def test_what_a_text_is(text: str, subject: Subject) -> None:
    """DOC-01: ids, keys, findings, subscriptions and names are told apart by their form."""
    assert read_complaint(text).subject is subject


OURS = '{"error":{"message":"You have 1 available.","type":"insufficient_quota","param":null,"code":"credit_balance_exhausted"}}'  # noqa: E501
ERRORS = [
    (OURS, "credit_balance_exhausted", None),
    (f"data: {OURS}\n\n", "credit_balance_exhausted", None),
    (f"HTTP/1.1 429 Too Many Requests\r\nx-request-id: req_{HEX}\r\n\r\n{OURS}",
     "credit_balance_exhausted", 429),
    (("Error code: 429 - {'error': {'message': 'You exceeded your current quota, please check your"
     " plan and billing details.', 'type': 'insufficient_quota', 'param': None,"
     " 'code': 'insufficient_quota'}}"), "insufficient_quota", 429),
    ('{"type":"about:blank","title":"Not Found","status":404,"detail":"no","code":"not_found"}',
     "not_found", 404),
    ('{"response":{"status":"failed","error":{"code":"server_error","message":"x"}}}',
     "server_error", None),
    ('{"error":"You have insufficient permissions for this operation. Missing scopes: a.b"}',
     "insufficient_permissions", None),
    ('{"error":{"message":"Billing hard limit has been reached","type":"x","code":null}}',
     "billing_hard_limit_reached", None),
    ('{"error":{"message":"This API key has been revoked.","code":"invalid_api_key"}}',
     "key_revoked", None),
    ("429 You exceeded your current quota, please check your plan", "insufficient_quota", 429),
    ("Rate limit reached for gpt-5.4 in organization org-x on tokens per min (TPM): Limit 1",
     "rate_limit_exceeded", None),
    ("insufficient_quota", "insufficient_quota", None),
    ("status: 503", "", 503),
    ("openai.AuthenticationError: Incorrect API key provided: sk-abcdefgh.", "invalid_api_key",
     None),
    ("requests.ConnectionError: Connection refused", "connection_refused", None),
    ("Your card was declined.", "payment_failed", None),
    ("Your credit has expired: 1.00 in all was not used by its end.", "credit_balance_expired",
     None),
    ("The balance is -1.00: more was used than there is credit.", "credit_balance_negative", None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "code", "status"), ERRORS)
def test_errors_in_every_dress(text: str, code: str, status: int | None) -> None:
    """DOC-01: ours, OpenAI's, problem documents, printed exceptions, streams, codes, sentences."""
    error = read_error(text)
    assert error is not None
    assert (error.code, error.status) == (code, status)
    assert read_complaint(text).subject is Subject.ERROR
    assert not code or finding_of(code) is not None


def test_what_an_error_names_is_taken_along() -> None:
    """ERR-07: the request id in a pasted answer; the model; whether it points to the provider."""
    text = f'x-request-id: req_{HEX} {{"error":{{"message":"The model `gpt-9` does not exist","code":"model_not_found"}}}}'  # noqa: E501
    error = read_error(text)
    assert error is not None
    assert error.request_id == UUID(HEX)
    assert error.model == "gpt-9"
    assert not error.is_the_providers
    theirs = read_error(
        "insufficient_quota: see https://platform.openai.com/account/billing/overview"
    )
    assert theirs is not None
    assert theirs.is_the_providers
    rate = read_error("Rate limit reached for gpt-5.4-mini in organization org-x")
    assert rate is not None
    assert rate.model == "gpt-5.4-mini"


@pytest.mark.parametrize("text", [KEY, f"{KEY}\n", f"Error: bad key {KEY} 401", f"Bearer {KEY}"])
def test_a_key_is_never_repeated(text: str) -> None:
    """A whole key that is pasted is looked up by its digest; its first letters alone are kept."""
    complaint = read_complaint(text)
    assert KEY[:13] in complaint.text
    assert KEY[13:] not in str(complaint)
    if text.strip() == KEY:
        assert complaint.key_digest == digest(KEY)
        assert complaint.key_prefix == "fbx_live_1111"
    assert redacted("sk-abcdefghijkl") == "sk-abcd..."


def test_a_finding_is_named_by_code_or_name() -> None:
    """DOC-16: both names of a code mean it."""
    assert read_complaint("d47").code is Code.D47
    assert read_complaint("Spend_Jumped").code is Code.D43


@given(
    st.text(max_size=300) | st.sampled_from([text for text, _, _ in ERRORS]).map(lambda t: t * 3)
)
def test_nothing_that_is_pasted_breaks_it(text: str) -> None:
    """Whatever comes is read as something; nothing is raised."""
    complaint = read_complaint(text)
    assert complaint.text.isprintable()
    assert len(complaint.text) <= 203 or complaint.id is not None


@pytest.mark.parametrize("text", ["{" * 50_000, "{'a':" * 5_000, "[" * 99_999 + "}", "{}" * 40_000])
def test_hostile_nesting_is_no_trouble(text: str) -> None:
    """A limit on everything: deep or long rubbish is not understood, quickly."""
    assert read_complaint(text).subject in {Subject.UNKNOWN, Subject.NAME}
