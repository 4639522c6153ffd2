"""Reading what people give the doctor: an id, a key's first letters, an error in any dress, a name.

Errors come as they were seen: our bodies and OpenAI's, problem documents, what a client library
printed, an event of a stream, a code, a status with a sentence. Nothing here is an error of ours:
what cannot be read becomes a complaint of kind ``unknown``, and a finding says so.
"""

from __future__ import annotations

import ast
import re
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

import msgspec

from farebox.advice.catalogue import code_named
from farebox.advice.codes import Code
from farebox.advice.error_codes import KNOWN, finding_of
from farebox.kit.errors import InvalidInputError
from farebox.kit.ids import parse_id
from farebox.tenancy.api_keys import KeyKind, digest, kind_of, shown_prefix

TEXT_CHARACTERS_MAX: Final = 64 * 1024
"""An error body of any provider fits; more of a pasted log is not looked at."""

LITERAL_CHARACTERS_MAX: Final = 8 * 1024
"""What a client library printed as a literal is read up to this length."""

SHOWN_CHARACTERS_MAX: Final = 200

MESSAGE_CHARACTERS_MAX: Final = 2_400
"""A refusal's message as it is recorded, and what the gateway adds to it."""

DEPTH_MAX: Final = 4
"""How deep an error may lie in the documents around it."""


class Subject(StrEnum):
    """What the text turned out to be."""

    CALL = "call"
    ORGANIZATION = "organization"
    PROJECT = "project"
    KEY = "key"
    GRANT = "grant"
    FINDING = "finding"
    """A finding's own code: it is explained."""
    ERROR = "error"
    SUBSCRIPTION = "subscription"
    NAME = "name"
    """Perhaps the name of an organisation."""
    UNKNOWN = "unknown"


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """An error as a client got it; what it did not say is empty."""

    status: int | None = None
    code: str = ""
    kind: str = ""
    """``error.type``."""
    message: str = ""
    """As it may be repeated."""
    whole_message: str = ""
    """To find the refusal that it is from; not to be shown."""
    param: str = ""
    request_id: UUID | None = None
    model: str = ""

    is_the_providers: bool = False
    """It points to the provider's own site, as errors of ours never do."""


class Complaint(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody came with."""

    subject: Subject
    text: str
    """As it may be repeated: no key, not too long."""
    id: UUID | None = None
    code: Code | None = None
    error: ErrorBody | None = None
    key_digest: bytes | None = None
    """Of a whole key; its text is not kept."""
    key_prefix: str = ""
    key_kind: str = ""


_IDS: Final = {
    "req": Subject.CALL,
    "org": Subject.ORGANIZATION,
    "proj": Subject.PROJECT,
    "key": Subject.KEY,
    "grant": Subject.GRANT,
}
_ID: Final = re.compile(r"(?P<prefix>req|org|proj|key|grant)_[0-9A-Fa-f-]{8,40}")
_BARE_ID: Final = re.compile(r"[0-9a-f]{32}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_REQUEST: Final = re.compile(r"\breq_[0-9a-f]{32}\b")
_KEY_BEGINNING: Final = re.compile(r"fbx_(?P<kind>live|test|admin)_\w*?")
_KEY_TEXT: Final = re.compile(r"\b(?:fbx_(?:live|test|admin)_|sk-)[\w*.-]{1,400}")
_PROVIDER_KEY: Final = re.compile(r"sk-[\w*.-]+")
_SUBSCRIPTION: Final = re.compile(
    r"\b(?:chatgpt|claude)\s+(?:plus|pro|team|max|go|business)\b|\bplus\s+(?:plan|subscription)\b"
    r"|\bsubscri(?:be|bed|ber|ption|ptions)\b",
    re.IGNORECASE,
)
_PROVIDER_SITE: Final = re.compile(r"\b(?:platform|help)\.openai\.com\b")
_STATUS: Final = re.compile(
    r"(?:error code:?|http(?:/\d(?:\.\d)?)?|status(?:[ _]?code)?)[\s:=]{1,3}(?P<named>[1-5]\d\d)\b"
    r"|^(?P<first>[45]\d\d)\b",
    re.IGNORECASE,
)
_MODEL: Final = re.compile(
    r"model:? [`'\"](?P<quoted>[^`'\"]{1,200})[`'\"]"
    r"|(?:reached|too large) for (?P<rate>[\w./:-]{1,100}) (?:\(|in )",
    re.IGNORECASE,
)
_WORD: Final = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)+")

_KEY_WORDS: Final = {
    "has been revoked": "key_revoked",
    "has expired": "key_expired",
    "has been archived": "project_archived",
}

_PHRASES: Final = tuple(
    (re.compile(pattern, re.IGNORECASE), code)
    for pattern, code in (
        (r"header should match organi[sz]ation", "mismatched_organization"),
        (r"insufficient permissions|missing scopes", "insufficient_permissions"),
        (r"incorrect api key|didn.t provide an api key|invalid api key|no such api key",
         "invalid_api_key"),
        (r"api key has (?:been revoked|expired)", "invalid_api_key"),
        (r"does not exist or you do not have access|does not have access to model",
         "model_not_found"),
        (r"exceeded your current quota", "insufficient_quota"),
        (r"credit has expired", "credit_balance_expired"),
        (r"more was used than there is credit", "credit_balance_negative"),
        (r"no credits? remaining|credit balance is too low|available and this call needs",
         "credit_balance_exhausted"),
        (r"billing hard limit", "billing_hard_limit_reached"),
        (r"account is not active|organi[sz]ation has been suspended", "billing_not_active"),
        (r"request too large for", "request_too_large"),
        (r"rate limit|too many requests|requests per min|tokens per min", "rate_limit_exceeded"),
        (r"country, region,? or territory", "unsupported_country_region_territory"),
        (r"maximum context length|context window", "context_length_exceeded"),
        (r"connection (?:refused|error)|cannot connect|could not connect|econnrefused",
         "connection_refused"),
        (r"card (?:was|has been) declined|payment (?:failed|was declined)|do_not_honor",
         "payment_failed"),
        (r"overloaded|try your request again later", "server_is_overloaded"),
    )
)  # fmt: skip


def read_complaint(text: str) -> Complaint:
    """What a text is: ids and keys by their form, errors by what they say, else a name."""
    stripped = text.strip()[:TEXT_CHARACTERS_MAX]
    if not stripped:
        return Complaint(subject=Subject.UNKNOWN, text="")
    return (
        _read_id(stripped)
        or _read_key(stripped)
        or _read_finding(stripped)
        or _read_error(stripped)
        or _read_rest(stripped)
    )


def redacted(text: str) -> str:
    """A text as it may be repeated: keys cut to their first letters, short, printable.

    >>> redacted("Incorrect key sk-abcdefghijklmnop.")
    'Incorrect key sk-abcd...'
    """
    cut = _KEY_TEXT.sub(lambda match: f"{_beginning(match.group())}...", text)
    plain = "".join(c if c.isprintable() else " " for c in cut)
    short = " ".join(plain.split())
    return short if len(short) <= SHOWN_CHARACTERS_MAX else f"{short[:SHOWN_CHARACTERS_MAX]}..."


def _beginning(key: str) -> str:
    """As much of a key as may be shown."""
    secret = key.rindex("_") + 1 if key.startswith("fbx_") else len("sk-")
    return key[: secret + 4]


def _read_id(text: str) -> Complaint | None:
    match = _ID.fullmatch(text)
    if match is not None:
        prefix = match["prefix"]
        try:
            found = parse_id(prefix, text, field="id")
        except InvalidInputError:  # not 32 digits: the finding says so
            return Complaint(subject=Subject.UNKNOWN, text=redacted(text))
        return Complaint(subject=_IDS[prefix], text=text.lower(), id=found)
    if _BARE_ID.fullmatch(text.lower()):
        return Complaint(subject=Subject.CALL, text=text, id=UUID(text))
    return None


def _read_key(text: str) -> Complaint | None:
    """A key, whole or its first letters; only those are kept."""
    kind = kind_of(text)
    if kind is not None:
        return Complaint(
            subject=Subject.KEY,
            text=f"{shown_prefix(text)}...",
            key_digest=digest(text),
            key_prefix=shown_prefix(text),
            key_kind=kind.value,
        )
    beginning = text.rstrip(".*\u2026")
    match = _KEY_BEGINNING.fullmatch(beginning)
    if match is not None:
        prefix = _beginning(beginning)
        kinds = {each.value for each in KeyKind}
        assert match["kind"] in kinds, kinds
        return Complaint(
            subject=Subject.KEY,
            text=f"{prefix}...",
            key_prefix=prefix,
            key_kind=match["kind"],
            key_digest=digest(text) if len(text) > len(prefix) + 8 else None,
        )
    if _PROVIDER_KEY.fullmatch(text):
        prefix = _beginning(text)
        return Complaint(
            subject=Subject.KEY, text=f"{prefix}...", key_prefix=prefix, key_kind="provider"
        )
    return None


def _read_finding(text: str) -> Complaint | None:
    code = code_named(text)
    if code is None:
        return None
    return Complaint(subject=Subject.FINDING, text=code.value, code=code)


def _read_error(text: str) -> Complaint | None:
    error = read_error(text)
    if error is None:
        return None
    return Complaint(subject=Subject.ERROR, text=redacted(text), error=error)


def _read_rest(text: str) -> Complaint:
    if _SUBSCRIPTION.search(text):
        return Complaint(subject=Subject.SUBSCRIPTION, text=redacted(text))
    subject = Subject.NAME if len(text) <= SHOWN_CHARACTERS_MAX else Subject.UNKNOWN
    return Complaint(subject=subject, text=redacted(text))


# Errors.


def read_error(text: str) -> ErrorBody | None:
    """The error that a text is or contains; None where it is none."""
    document = _document(text)
    status = _status(text)
    request_id = _request_id(text)
    if document is not None:
        found = _from_document(document, text, status, request_id)
        if found is not None:
            return found
    code = _code_in(text)
    if not code and status is None:
        return None
    return ErrorBody(
        status=status,
        code=_refined(code, text),
        message=redacted(text) if text.strip() != code else "",
        whole_message=text[:MESSAGE_CHARACTERS_MAX],
        request_id=request_id,
        model=_model(text),
        is_the_providers=_PROVIDER_SITE.search(text) is not None,
    )


def _from_document(
    document: dict[str, Any], text: str, status: int | None, request_id: UUID | None
) -> ErrorBody | None:
    error = _error_in(document)
    if error is None:
        return None
    message = _text(error.get("message") or error.get("detail") or error.get("title"))
    named = document.get("status") or document.get("status_code") or error.get("status")
    if isinstance(named, int) and not isinstance(named, bool) and 100 <= named <= 599:
        status = named
    kind = _text(error.get("type"))
    code = _text(error.get("code"))
    if not code:
        code = kind if finding_of(kind) else _code_in(message)
    return ErrorBody(
        status=status,
        code=_refined(code, message),
        kind="" if "/" in kind or ":" in kind else kind,
        message=redacted(message),
        whole_message=message[:MESSAGE_CHARACTERS_MAX],
        param=_text(error.get("param"))[:100],
        request_id=request_id,
        model=_model(message) or _model(text),
        is_the_providers=_PROVIDER_SITE.search(text) is not None,
    )


def _error_in(document: dict[str, Any], depth: int = 0) -> dict[str, Any] | None:
    """The object that describes the error, wherever it lies."""
    inner = document.get("error")
    if isinstance(inner, str):
        return {"message": inner, **{k: v for k, v in document.items() if k != "error"}}
    if isinstance(inner, dict):
        return inner
    if depth < DEPTH_MAX:
        for name in ("response", "body", "data", "detail"):
            nested = document.get(name)
            if isinstance(nested, dict):
                found = _error_in(nested, depth + 1)
                if found is not None:
                    return found
    is_error = "message" in document or "detail" in document or "code" in document
    return document if is_error and ("code" in document or "type" in document) else None


def _document(text: str) -> dict[str, Any] | None:
    """The outermost object in a text: JSON, or the literal that a client library prints."""
    begin, end = text.find("{"), text.rfind("}")
    if begin < 0 or end < begin:
        return None
    piece = text[begin : end + 1]
    try:
        found = msgspec.json.decode(piece.encode(errors="replace"))
    except (ValueError, RecursionError):
        found = _literal(piece)
    return found if isinstance(found, dict) else None


def _literal(piece: str) -> object:
    if len(piece) > LITERAL_CHARACTERS_MAX:
        return None
    try:
        return ast.literal_eval(piece)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return None


def _status(text: str) -> int | None:
    match = _STATUS.search(text)
    return None if match is None else int(match["named"] or match["first"])


def _request_id(text: str) -> UUID | None:
    match = _REQUEST.search(text)
    return None if match is None else UUID(match.group().removeprefix("req_"))


def _code_in(text: str) -> str:
    """A code that the text names as a word, else the one that its sentence means."""
    for word in _WORD.findall(text.lower()):
        if word in KNOWN:
            return str(word)
    return next((code for pattern, code in _PHRASES if pattern.search(text)), "")


def _refined(code: str, message: str) -> str:
    """Our own code behind the provider's broader one, as our message tells it."""
    if code != "invalid_api_key":
        return code
    return next((own for word, own in _KEY_WORDS.items() if word in message), code)


def _model(text: str) -> str:
    match = _MODEL.search(text)
    return "" if match is None else match["quoted"] or match["rate"]


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
