"""Reading a request: its body within bounds, its values into their types, its path into ids."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeVar
from uuid import UUID

import msgspec
from msgspec import Struct
from starlette.requests import ClientDisconnect, Request

from farebox.console.api.fields import PATH_PREFIXES
from farebox.console.api.problems import CODES, ProblemError, field_error
from farebox.kit.errors import InvalidInputError, NotFoundError
from farebox.kit.ids import parse_id
from farebox.kit.texts import storable

BODY_BYTES_MAX: Final = 1_000_000
"""A price plan with two thousand rows of its own is the largest thing that is sent here."""

BODY_SECONDS: Final = 20.0
JSON: Final = "application/json"
_ACCEPTED: Final = frozenset({"*/*", "application/*", JSON, "application/problem+json"})

S = TypeVar("S", bound=Struct)


async def read_body(request: Request) -> bytes:
    """The body as it was sent.

    Raises:
        ProblemError: 413, 408 where it does not come, 400 where its client went away.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > BODY_BYTES_MAX:
                    detail = f"A body has at most {BODY_BYTES_MAX:,} bytes."
                    raise ProblemError(413, CODES[413], detail, headers={"connection": "close"})
    except TimeoutError as error:
        raise ProblemError(408, CODES[408], "The body did not come.") from error
    except ClientDisconnect as error:
        raise ProblemError(400, CODES[400], "The body is not whole.") from error
    return bytes(body)


def check_accept(request: Request) -> None:
    """Refuse a client that wants no JSON.

    Raises:
        ProblemError: 406.
    """
    header = request.headers.get("accept", "")
    wanted = {part.partition(";")[0].strip().lower() for part in header.split(",")} - {""}
    if wanted and wanted.isdisjoint(_ACCEPTED):
        raise ProblemError(406, CODES[406], f"Answers are {JSON}; accept that.")


def parse_body(request: Request, body: bytes, kind: type[S]) -> S:
    """The body's values.

    Raises:
        ProblemError: 415, 400 for what is no JSON, 422 for values of another kind.
        InvalidInputError: A text that no database keeps.
    """
    sent = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if sent != JSON:
        raise ProblemError(415, CODES[415], f"Send the body as {JSON}.")
    try:
        value = msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise _unfit(error, "body") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProblemError(400, CODES[400], f"The body is no JSON: {error}"[:300]) from error
    for name, text in _texts(msgspec.to_builtins(value), ""):
        _check_text(name, text)
    return value


def parse_query(request: Request, kind: type[S]) -> S:
    """The query's values.

    Raises:
        ProblemError: 422.
        InvalidInputError: A text that no database keeps.
    """
    given: dict[str, str] = {}
    for name, text in request.query_params.multi_items():
        if name in given:
            raise InvalidInputError(name[:100], "must be given once")
        _check_text(name[:100], name)
        _check_text(name[:100], text)
        given[name] = text
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        raise _unfit(error, "query") from error


def parse_path(params: Mapping[str, str]) -> tuple[dict[str, UUID], dict[str, str]]:
    """The path's ids, and its other parameters.

    Raises:
        NotFoundError: What is no id names nothing.
    """
    ids, texts = {}, {}
    for name, text in params.items():
        if name not in PATH_PREFIXES:
            if storable(text) != text:
                raise NotFoundError
            texts[name] = text
            continue
        try:
            ids[name] = parse_id(PATH_PREFIXES[name], text, field=name)
        except InvalidInputError as error:
            raise NotFoundError from error
    return ids, texts


def _unfit(error: msgspec.ValidationError, root: str) -> ProblemError:
    wrong = field_error(error, root=root)
    return ProblemError(
        422, InvalidInputError.code, f"{wrong.field}: {wrong.reason}", errors=[wrong]
    )


def _check_text(name: str, text: str) -> None:
    if storable(text) != text:
        raise InvalidInputError(storable(name), "has a character that no database keeps")


def _texts(value: Any, place: str) -> Iterator[tuple[str, str]]:
    """Every text in a value, with its place."""
    match value:
        case str():
            yield place, value
        case dict():
            for name, each in value.items():
                yield place, str(name)
                yield from _texts(each, f"{place}.{name}"[:200].lstrip("."))
        case list():
            for number, each in enumerate(value):
                yield from _texts(each, f"{place}[{number}]"[:200])
        case _:
            return
