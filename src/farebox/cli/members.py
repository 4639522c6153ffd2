"""``farebox members``: who is what in an organisation, and who is invited (ORG-01, ORG-14)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from farebox.cli.output import Document, facts, hint, page, say, short, show, table
from farebox.cli.reading import add_page_arguments, read_duration, read_limit

if TYPE_CHECKING:
    import argparse

    from farebox.cli.database import Session
    from farebox.operations.people import Invitation, Member

ROLES = ("owner", "billing_admin", "developer", "finance_viewer", "viewer")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        made = actions.add_parser(name, help=text)
        made.add_argument("--org", metavar="ORG", help="id or name (default: the only one)")
        return made

    add_page_arguments(add("list", "members and their roles"))
    for name, text in (
        ("add", "make somebody who has a login a member"),
        ("role", "give a member another role"),
        ("invite", "invite somebody by a link that works once"),
    ):
        made = add(name, text)
        made.add_argument("email", metavar="EMAIL")
        made.add_argument("--role", choices=ROLES, required=True)
        if name == "invite":
            made.add_argument("--lasts", metavar="T", default="7d", help="such as 12h (default 7d)")
    add("remove", "take a member out; keys they own or made there are revoked").add_argument(
        "email", metavar="EMAIL"
    )
    add_page_arguments(add("invitations", "invitations, also those that are over"))
    revoke = actions.add_parser("uninvite", help="take an invitation back")
    revoke.add_argument("invitation", metavar="ID")
    operator = actions.add_parser("operator", help="let somebody administer the deployment")
    operator.add_argument("email", metavar="EMAIL")
    operator.add_argument("--no", action="store_true", help="no longer")
    sign_up = actions.add_parser(
        "sign-up",
        help="whether strangers may sign up by themselves; e-mail addresses are not verified",
    )
    sign_up.add_argument("allowed", choices=("on", "off"))


def run(args: argparse.Namespace) -> int:
    """Do what was asked."""
    from farebox.cli.database import work

    jobs = {
        "list": _list,
        "add": _add,
        "role": _change,
        "remove": _remove,
        "invite": _invite,
        "invitations": _invitations,
        "uninvite": _uninvite,
        "operator": _operator,
        "sign-up": _sign_up,
    }
    return work(args, lambda session: jobs[args.action](session, args))


async def _list(session: Session, args: argparse.Namespace) -> int:
    from farebox.kit.ids import parse_id

    limit = read_limit(args)
    after = None if args.cursor is None else parse_id("user", args.cursor, field="cursor")
    organization = await session.organization(args.org)
    found = await session.people_store.members(
        organization_id=organization.id, after=after, limit=limit + 1
    )
    rows = [describe(each) for each in found[:limit]]
    cursor = rows[-1]["user_id"] if len(found) > limit else None

    def text() -> None:
        if not rows:
            hint(
                f"{organization.name} has no members yet; operators see it all the same.",
                "Invite its owner: farebox members invite EMAIL --role owner",
            )
            return
        table(
            ["e-mail", "role", "since"],
            [(m.email, _shown(m.role), short(m.created_at)) for m in found[:limit]],
        )
        if cursor:
            hint(f"More: farebox members list --cursor {cursor}")

    show(args, page(rows, cursor), text)
    return 0


async def _add(session: Session, args: argparse.Namespace) -> int:
    from farebox.tenancy.permissions import Role

    organization = await session.organization(args.org)
    member = await session.people.add_member(organization.id, args.email, Role(args.role))
    return _say_role(args, member)


async def _change(session: Session, args: argparse.Namespace) -> int:
    from farebox.tenancy.permissions import Role

    organization = await session.organization(args.org)
    user = await session.people.find_user(args.email)
    changed = await session.people_store.change_member(organization.id, user.id, Role(args.role))
    return _say_role(args, changed.member, revoked=changed.management_keys_revoked)


def _say_role(args: argparse.Namespace, member: Member, *, revoked: int | None = None) -> int:
    """Say what somebody is now, and after a change how many of their keys that ended."""
    text = f"{member.email} is {_shown(member.role)} of {member.organization_name}."
    document = describe(member)
    if revoked is not None:
        document["management_keys_revoked"] = revoked
        text += f" {_made(revoked)} revoked." if revoked else ""
    show(args, document, lambda: say(text))
    return 0


def _made(count: int) -> str:
    return f"{count} management key{'' if count == 1 else 's'} that they had made"


async def _remove(session: Session, args: argparse.Namespace) -> int:
    from farebox.kit.ids import format_id

    organization = await session.organization(args.org)
    user = await session.people.find_user(args.email)
    removed = await session.people_store.remove_member(organization.id, user.id)
    keys, made = removed.keys_revoked, removed.management_keys_revoked
    document = {
        "object": "member",
        "organization_id": format_id("org", organization.id),
        "user_id": format_id("user", user.id),
        "email": user.email,
        "removed": True,
        "keys_revoked": keys,
        "management_keys_revoked": made,
    }
    text = (
        f"{user.email} is no member of {organization.name} any more; "
        f"{keys} key{'' if keys == 1 else 's'} of theirs and {_made(made)} revoked."
    )
    show(args, document, lambda: say(text))
    return 0


async def _invite(session: Session, args: argparse.Namespace) -> int:
    from farebox.tenancy.permissions import Role

    lasts = read_duration(args.lasts, field="lasts")
    organization = await session.organization(args.org)
    made = await session.people.invite(organization.id, args.email, Role(args.role), lasts=lasts)
    document = describe_invitation(made.invitation, "open")

    def text() -> None:
        facts(
            [
                ("id", document["id"]),
                ("e-mail", made.invitation.email),
                ("role", _shown(args.role)),
                ("until", short(made.invitation.expires_at)),
                ("token", made.token),
            ]
        )
        hint(
            "Hand the token over now: it works once, and cannot be shown again. It is accepted on "
            "the console's page /join."
        )

    show(args, {**document, "token": made.token}, text)
    return 0


async def _invitations(session: Session, args: argparse.Namespace) -> int:
    from farebox.kit.ids import parse_id

    limit = read_limit(args)
    after = None if args.cursor is None else parse_id("inv", args.cursor, field="cursor")
    organization = await session.organization(args.org)
    found = await session.people_store.invitations(
        organization_id=organization.id, after=after, limit=limit + 1
    )
    now = await session.now()
    rows = [describe_invitation(each, each.state_at(now).value) for each in found[:limit]]
    cursor = rows[-1]["id"] if len(found) > limit else None

    def text() -> None:
        if not rows:
            hint("Nobody was invited yet: farebox members invite EMAIL --role ROLE")
            return
        table(
            ["*id", "e-mail", "role", "state"],
            [(r["id"], r["email"], r["role"], r["state"]) for r in rows],
        )

    show(args, page(rows, cursor), text)
    return 0


async def _uninvite(session: Session, args: argparse.Namespace) -> int:
    from farebox.kit.ids import parse_id

    invitation_id = parse_id("inv", args.invitation, field="invitation")
    invitation = await session.people_store.revoke_invitation(invitation_id)
    state = invitation.state_at(await session.now()).value
    show(
        args,
        describe_invitation(invitation, state),
        lambda: say(f"The invitation of {invitation.email} is {state}."),
    )
    return 0 if state == "revoked" else 1


async def _operator(session: Session, args: argparse.Namespace) -> int:
    from farebox.operations.documents import document

    user = await session.people.find_user(args.email)
    changed = await session.people_store.set_operator(user.id, operator=not args.no)
    after, revoked = changed.user, changed.management_keys_revoked
    verb = "administers" if after.operator else "does not administer"
    text = f"{after.email} {verb} this deployment." + (
        f" {_made(revoked)} revoked." if revoked else ""
    )
    described = document(after, of="user") | {"management_keys_revoked": revoked}
    show(args, {"object": "user", **described}, lambda: say(text))
    return 0


async def _sign_up(session: Session, args: argparse.Namespace) -> int:
    allowed = args.allowed == "on"
    await session.people_store.allow_sign_up(allowed=allowed)

    def text() -> None:
        if allowed:
            say("Strangers may sign up.")
            hint(
                "Their e-mail addresses are not verified: whoever signs up may name one that is "
                "not theirs, which its owner cannot sign up with any more."
            )
        else:
            say("Nobody signs up without an invitation.")

    show(args, {"object": "deployment", "self_sign_up": allowed}, text)
    return 0


def describe(member: Member) -> Document:
    """A member's document."""
    from farebox.operations.documents import document

    return {"object": "member", **document(member)}


def describe_invitation(invitation: Invitation, state: str) -> Document:
    """An invitation's document."""
    from farebox.operations.documents import document

    return {"object": "invitation", **document(invitation, of="inv"), "state": state}


def _shown(role: str) -> str:
    return role.replace("_", " ")
