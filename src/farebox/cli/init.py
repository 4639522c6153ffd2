"""``farebox init``: from nothing to an installation that takes real calls; harmless to repeat.

Every step looks first: what is there is told, what is missing is made, so an interrupted run is
finished by the next. It asks on a terminal and takes everything from flags or the environment
elsewhere.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from farebox.cli.output import Document, facts, hint, say, show
from farebox.cli.providers import add_secret_arguments

if TYPE_CHECKING:
    import argparse

    from farebox.cli.database import Session
    from farebox.operations.tenants import OrganizationProfile, Project
    from farebox.storage.catalogue_store import ProviderRow

ORGANIZATION = "My organization"
PROJECT = "default"
KEY = "first"
BASE_URL = "https://api.openai.com/v1"
SECRET_VARIABLE = "OPENAI_API_KEY"  # noqa: S105 - the name of a variable
BASE_URL_VARIABLE = "OPENAI_BASE_URL"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.add_argument("--org", metavar="NAME", help=f"organisation to make ({ORGANIZATION})")
    parser.add_argument("--project", metavar="NAME", help=f"project to make ({PROJECT})")
    parser.add_argument("--currency", default="USD", help="of the organisation (USD)")
    parser.add_argument("--zone", default="UTC", help="time zone of its budget months (UTC)")
    parser.add_argument(
        "--base-url",
        metavar="URL",
        help=f"the provider's ({BASE_URL_VARIABLE}, or {BASE_URL})",
    )
    parser.add_argument("--no-provider", action="store_true", help="add a provider later")
    parser.add_argument("--credit", metavar="AMOUNT", help="first purchased credit, such as 5.00")
    parser.add_argument("--no-input", action="store_true", help="ask nothing, even on a terminal")
    add_secret_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Do what was asked."""
    import asyncio

    from farebox.cli.database import opened

    async def job() -> int:
        async with opened(args, create=True, sandbox=False) as session:
            return await _init(session, args)

    return asyncio.run(job())


async def _init(session: Session, args: argparse.Namespace) -> int:
    from farebox.kit.ids import format_id
    from farebox.storage.balance_store import read_balance

    notes: list[str] = []
    prices = await _prices(session, notes)
    organization = await _organization(session, args, notes)
    provider = await _provider(session, args, notes)
    credit = await _credit(session, args, organization, notes)
    project = await _project(session, args, organization, notes)
    key = await _key(session, project, notes)
    balance = await read_balance(session.connection, organization.id)
    from farebox.kit.money import format_amount

    document: Document = {
        "object": "installation",
        "home": str(session.settings.home),
        "organization_id": format_id("org", organization.id),
        "project_id": format_id("proj", project.id),
        "key": key,
        "provider": None if provider is None else provider.name,
        "prices": prices,
        "credit_granted": credit,
        "available": format_amount(balance.available),
        "currency": organization.currency,
        "notes": notes,
        "next": "farebox serve",
    }

    def text() -> None:
        say(*notes, "")
        facts(
            [
                ("home", document["home"]),
                ("organisation", f"{organization.name} ({document['organization_id']})"),
                ("project", f"{project.name} ({document['project_id']})"),
                ("available", f"{document['available']} {organization.currency}"),
                ("key", key),
            ]
        )
        if key is not None:
            hint("Keep the key now: it is stored as a digest and cannot be shown again.")
        if provider is None:
            hint("Add a provider before the first call: farebox providers add --help")
        if balance.available <= 0:
            hint("Give credit before the first call: farebox credits grant --help")
        hint("Next: farebox serve")

    show(args, document, text)
    return 0


async def _prices(session: Session, notes: list[str]) -> int:
    from farebox.providers.price_catalogue import import_catalogue
    from farebox.storage.catalogue_store import import_prices

    snapshot = import_catalogue()
    now = await session.now()
    plan = await import_prices(
        session.connection, snapshot.versions, snapshot.facts, now, by=session.by
    )
    notes.append(
        f"Prices of {snapshot.source}: {len(plan.versions)} added."
        if plan.versions
        else f"Prices of {snapshot.source} are there already."
    )
    return len(plan.versions)


async def _organization(
    session: Session, args: argparse.Namespace, notes: list[str]
) -> OrganizationProfile:
    from farebox.kit.errors import InvalidInputError

    if args.org is not None:
        found = await session.tenants.organizations(name=args.org.strip(), limit=1)
    else:
        found = await session.tenants.organizations(limit=2)
        if len(found) > 1:
            raise InvalidInputError("org", "must be given: there are several organisations")
    if found:
        notes.append(f"Organisation {found[0].name} is there already.")
        return found[0]
    name = args.org or _ask(args, "Name of your organisation", ORGANIZATION)
    made = await session.administration.create_organization(
        name, currency=args.currency, zone=args.zone
    )
    notes.append(f"Made organisation {made.name}.")
    return made


async def _provider(
    session: Session, args: argparse.Namespace, notes: list[str]
) -> ProviderRow | None:
    from farebox.cli.providers import add_provider, read_secret
    from farebox.storage.catalogue_store import read_providers

    standing = await read_providers(session.connection)
    if standing:
        notes.append(f"Provider {standing[0].name} is there already.")
        return standing[0]
    if args.no_provider:
        return None
    secret = read_secret(args) or os.environ.get(SECRET_VARIABLE, "").strip() or None
    base_url = args.base_url or os.environ.get(BASE_URL_VARIABLE, "").strip() or None
    if secret is None and _may_ask(args):
        base_url = base_url or _ask(args, "Base URL of your provider", BASE_URL)
        secret = _ask_secretly("Its API key (not shown; empty for none)")
    if secret is None and base_url is None:
        notes.append(f"No provider yet: {SECRET_VARIABLE} is not set and no key was given.")
        return None
    row = await add_provider(
        session,
        name="openai",
        kind="openai",
        base_url=base_url or BASE_URL,
        price_list="openai",
        api_version=None,
        account=None,
        secret=secret,
    )
    notes.append(f"Added provider {row.name}: {row.base_url}.")
    return row


async def _credit(
    session: Session,
    args: argparse.Namespace,
    organization: OrganizationProfile,
    notes: list[str],
) -> str | None:
    from farebox.kit.money import format_amount, parse_positive_amount
    from farebox.ledger.grants import Source
    from farebox.operations.credits import plan_grant
    from farebox.storage.balance_store import list_grants

    if await list_grants(session.connection, organization.id, limit=1):
        notes.append("Credit was given already; more: farebox credits grant.")
        return None
    text = args.credit
    if text is None and _may_ask(args):
        text = _ask(args, f"First credit in {organization.currency} (empty for none)", "")
    if not text:
        return None
    command = plan_grant(
        organization.id,
        await session.new_id(),
        source=Source.PURCHASED,
        amount=parse_positive_amount(text, field="credit"),
        expires_at=None,
        reference="farebox init",
        now=await session.now(),
    )
    await session.submit(command)
    notes.append(f"Granted {format_amount(command.amount)} {organization.currency}.")
    return format_amount(command.amount)


async def _project(
    session: Session,
    args: argparse.Namespace,
    organization: OrganizationProfile,
    notes: list[str],
) -> Project:
    name = None if args.project is None else args.project.strip()
    found = await session.tenants.projects(name=name, organization_id=organization.id, limit=1)
    if found:
        notes.append(f"Project {found[0].name} is there already.")
        return found[0]
    made = await session.administration.create_project(name or PROJECT, organization.id)
    notes.append(f"Made project {made.name}.")
    return made


async def _key(session: Session, project: Project, notes: list[str]) -> str | None:
    if await session.tenants.keys(project_id=project.id, limit=1):
        notes.append("A key is there already; another: farebox keys create.")
        return None
    made = await session.administration.create_key(KEY, project.id)
    notes.append("Made a key.")
    return made.text


def _may_ask(args: argparse.Namespace) -> bool:
    return not (args.no_input or args.json) and sys.stdin.isatty() and sys.stderr.isatty()


def _ask(args: argparse.Namespace, question: str, default: str) -> str:
    """Ask on the terminal; the default where there is none."""
    if not _may_ask(args):
        return default
    sys.stderr.write(f"{question}{f' [{default}]' if default else ''}: ")
    sys.stderr.flush()
    return sys.stdin.readline().strip() or default


def _ask_secretly(question: str) -> str | None:
    from getpass import getpass

    return getpass(f"{question}: ").strip() or None
