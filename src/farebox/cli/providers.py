"""``farebox providers``: where calls are sent to; their keys never stand on a command line."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from farebox.cli.output import Document, facts, hint, page, say, show, table

if TYPE_CHECKING:
    import argparse

    from farebox.cli.database import Session
    from farebox.providers.openai_compatible import OpenAICompatibleUpstream
    from farebox.storage.catalogue_store import NewProvider, ProviderRow

KINDS = ("openai", "azure")
SECRET_BYTES_MAX = 8192
TEST_SECONDS = 15.0
MODELS_BYTES_MAX = 8 * 1024 * 1024
_ERROR_LENGTH_MAX = 300


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    add = actions.add_parser("add", help="add a provider; its key is stored encrypted")
    add.add_argument("name", metavar="NAME", help="what you call it, such as openai")
    add.add_argument("--kind", choices=KINDS, default="openai", help="how it is spoken to")
    add.add_argument("--base-url", required=True, metavar="URL", help="https://api.openai.com/v1")
    add.add_argument("--price-list", metavar="P", help="whose prices hold (default: its kind)")
    add.add_argument("--api-version", metavar="V", help="Azure's api-version")
    add.add_argument("--account", help="your account there (default: the provider's name)")
    add_secret_arguments(add)

    actions.add_parser("list", help="list providers")

    remove = actions.add_parser("remove", help="take a provider out of service, forget its key")
    remove.add_argument("provider", metavar="PROVIDER", help="id or name")

    test = actions.add_parser("test", help="ask the provider for its models")
    test.add_argument("provider", metavar="PROVIDER", help="id or name")


def add_secret_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the ways to hand over a provider's key; none of them shows in a process list."""
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument("--api-key-env", metavar="VAR", help="environment variable with its key")
    ways.add_argument("--api-key-file", metavar="FILE", help="file with its key")
    ways.add_argument("--api-key-stdin", action="store_true", help="read its key from stdin")


def run(args: argparse.Namespace) -> int:
    """Do what was asked."""
    from farebox.cli.database import work

    jobs = {"add": _add, "list": _list, "remove": _remove, "test": _test}
    create = args.action == "add"
    return work(args, lambda session: jobs[args.action](session, args), create=create)


def read_secret(args: argparse.Namespace) -> str | None:
    """The provider's key from where the arguments say; None where they say nothing.

    Raises:
        InvalidInputError: There is none, or it cannot be one; it is never repeated.
    """
    from farebox.kit.errors import InvalidInputError

    if args.api_key_env is not None:
        field, text = "api_key_env", os.environ.get(args.api_key_env, "")
    elif args.api_key_file is not None:
        field = "api_key_file"
        try:
            with Path(args.api_key_file).open("rb") as file:
                text = file.read(SECRET_BYTES_MAX + 1).decode()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            raise InvalidInputError(field, f"cannot be read: {reason}") from error
    elif args.api_key_stdin:
        field, text = "api_key_stdin", sys.stdin.read(SECRET_BYTES_MAX + 1)
    else:
        return None
    secret = text.strip()
    if not secret:
        where = f"{args.api_key_env} " if args.api_key_env is not None else ""
        reason = f"{where}is empty or not set; leave it out if the provider wants no key"
        raise InvalidInputError(field, reason)
    if len(secret) > SECRET_BYTES_MAX or not secret.isascii() or not secret.isprintable():
        raise InvalidInputError(field, "must be one line of printable ASCII")
    if " " in secret:
        raise InvalidInputError(field, "must not hold spaces")
    return secret


async def add_provider(
    session: Session,
    *,
    name: str,
    kind: str,
    base_url: str,
    price_list: str | None,
    api_version: str | None,
    account: str | None,
    secret: str | None,
) -> ProviderRow:
    """Check everything and add the provider.

    Raises:
        InvalidInputError: Naming the field.
        ConflictError: There is one of that name.
    """
    from farebox.kit.errors import InvalidInputError
    from farebox.operations.audit_log import made
    from farebox.providers.base_urls import parse_base_url
    from farebox.storage.catalogue_store import NewProvider, changing_catalogue
    from farebox.tenancy.names import parse_identifier

    if api_version is not None and kind != "azure":
        raise InvalidInputError("api_version", "is for --kind azure only")
    checked = parse_identifier(name)
    new = NewProvider(
        id=await session.new_id(),
        name=checked,
        kind=kind,
        price_list=parse_identifier(price_list or kind, field="price_list"),
        base_url=parse_base_url(base_url, style="azure" if kind == "azure" else "openai"),
        api_version=api_version,
        secret=None if secret is None else session.secrets.seal(secret),
        account_id=await session.new_id(),
        account_name=parse_identifier(account or checked, field="account"),
    )
    _upstream(new, secret)  # what cannot be spoken to is refused now, not at the first call
    async with changing_catalogue(session.connection) as change:
        row = await change.add_provider(new)
        facts = describe(row)
        await session.note(made("provider", facts["id"], None, facts))
    return row


async def _add(session: Session, args: argparse.Namespace) -> int:
    from farebox.storage.catalogue_store import load_catalogue

    row = await add_provider(
        session,
        name=args.name,
        kind=args.kind,
        base_url=args.base_url,
        price_list=args.price_list,
        api_version=args.api_version,
        account=args.account,
        secret=read_secret(args),
    )
    priced = (await load_catalogue(session.connection)).prices.models(row.price_list)
    document = {**describe(row), "models": len(priced)}

    def text() -> None:
        say(f"Added provider {row.name}: {row.base_url}")
        if row.secret is None:
            hint("It has no key: every call goes there without authorisation.")
        if not priced:
            hint(
                f"The price list {row.price_list} has no prices yet, so its calls are refused: "
                "farebox prices import, or farebox prices set."
            )
        hint(f"Next: farebox providers test {row.name}")

    show(args, document, text)
    return 0


async def _list(session: Session, args: argparse.Namespace) -> int:
    from farebox.storage.catalogue_store import read_providers

    rows = [describe(row) for row in await read_providers(session.connection)]

    def text() -> None:
        if not rows:
            hint("There is no provider yet; add one: farebox providers add --help")
            return
        table(
            ["name", "kind", "prices", "base URL", "key"],
            [
                (
                    r["name"],
                    r["kind"],
                    r["price_list"],
                    r["base_url"],
                    "yes" if r["has_key"] else "none",
                )
                for r in rows
            ],
        )

    show(args, page(rows, None), text)
    return 0


async def _remove(session: Session, args: argparse.Namespace) -> int:
    from farebox.operations.audit_log import AuditNote
    from farebox.storage.catalogue_store import changing_catalogue

    row = await _find(session, args.provider)
    before = describe(row)
    note = AuditNote(
        action="provider.removed", subject_kind="provider", subject_id=before["id"], before=before
    )
    async with changing_catalogue(session.connection) as change:
        await change.remove_provider(row.id)
        await session.note(note)
    document = {**describe(row), "has_key": False, "removed": True}
    show(args, document, lambda: say(f"Removed provider {row.name} and forgot its key."))
    return 0


async def _test(session: Session, args: argparse.Namespace) -> int:
    row = await _find(session, args.provider)
    if row.kind == "simulated":
        found = _outcome("ok", None, None, "simulated inside Farebox: there is nothing to reach")
    else:
        secret = None if row.secret is None else session.secrets.open(row.secret)
        found = await try_provider(row, secret)
    described = {"object": "provider_test", "provider": row.name, "base_url": row.base_url, **found}

    def text() -> None:
        say(f"{row.name}: {found['message']}")
        facts([("HTTP status", found["http_status"]), ("models", found["models"])])

    show(args, described, text)
    return 0 if found["status"] == "ok" else 1


async def try_provider(row: ProviderRow, secret: str | None) -> Document:
    """Ask a provider for its models and say what came of it; the key is never repeated."""
    import asyncio

    from farebox.kit.errors import FareboxError
    from farebox.operations.upstream import UpstreamRequest

    upstream = _upstream(row, secret)
    try:
        async with asyncio.timeout(TEST_SECONDS):
            answer = await upstream.send(
                UpstreamRequest(endpoint="/models", body=b"", method="GET")
            )
            body = await answer.read(MODELS_BYTES_MAX)
            await answer.close()
    except TimeoutError:
        return _outcome("failed", None, None, f"no answer within {TEST_SECONDS:.0f} seconds")
    except FareboxError as error:
        return _outcome("failed", None, None, error.message)
    finally:
        await upstream.aclose()
    return _judge(answer.status, body)


def _judge(status: int, body: bytes) -> Document:
    """What an answer to GET /models means."""
    import msgspec

    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        decoded = None
    models = decoded.get("data") if isinstance(decoded, dict) else None
    if status == 200 and isinstance(models, list):
        return _outcome("ok", status, len(models), f"it answers and lists {len(models)} models")
    if status == 200:
        return _outcome("failed", status, None, "it answers, but not with a list of models")
    if status in {401, 403}:
        return _outcome("failed", status, None, "it does not accept the key")
    if status == 404:
        return _outcome("failed", status, None, "it has no /models here: check the base URL")
    error = decoded.get("error") if isinstance(decoded, dict) else None
    said = error.get("message") if isinstance(error, dict) else None
    message = f"it answers with an error{f': {said}' if isinstance(said, str) else ''}"
    return _outcome("failed", status, None, message[:_ERROR_LENGTH_MAX])


def _outcome(status: str, http_status: int | None, models: int | None, message: str) -> Document:
    return {"status": status, "http_status": http_status, "models": models, "message": message}


def _upstream(row: NewProvider, secret: str | None) -> OpenAICompatibleUpstream:
    from farebox.providers.openai_compatible import OpenAICompatibleUpstream

    return OpenAICompatibleUpstream(
        row.base_url,
        secret,
        style="azure" if row.kind == "azure" else "openai",
        api_version=row.api_version,
    )


async def _find(session: Session, text: str) -> ProviderRow:
    from farebox.kit.errors import NotFoundError
    from farebox.kit.ids import format_id
    from farebox.storage.catalogue_store import read_providers

    for row in await read_providers(session.connection):
        if text in {row.name, format_id("prov", row.id)}:
            return row
    raise NotFoundError(f"There is no provider {text[:80]!r}; `farebox providers list` shows them.")


def describe(row: ProviderRow) -> Document:
    """A provider's document; of its key only whether there is one."""
    from farebox.kit.ids import format_id
    from farebox.operations.documents import instant

    return {
        "object": "provider",
        "id": format_id("prov", row.id),
        "name": row.name,
        "kind": row.kind,
        "price_list": row.price_list,
        "base_url": row.base_url,
        "api_version": row.api_version,
        "account_id": format_id("acct", row.account_id),
        "account": row.account_name,
        "has_key": row.secret is not None,
        "created_at": instant(row.created_at),
    }
