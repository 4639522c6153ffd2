"""``farebox users``: the people who may sign in to the console."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from farebox.cli.output import Document, facts, hint, show

if TYPE_CHECKING:
    import argparse

    from farebox.cli.database import Session


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    add = actions.add_parser("add", help="let a person sign in, or give them a new password")
    add.add_argument("email", metavar="EMAIL", help="what they sign in with")
    add.add_argument(
        "--operator",
        action="store_true",
        help="they administer the deployment (the first person always does)",
    )
    add.add_argument(
        "--password-stdin",
        action="store_true",
        help="read the password from stdin instead of making one",
    )


def run(args: argparse.Namespace) -> int:
    """Do what was asked."""
    from farebox.cli.database import work

    return work(args, lambda session: _add(session, args))


async def _add(session: Session, args: argparse.Namespace) -> int:
    from farebox.assembly.console_users import make_console_user
    from farebox.kit.ids import format_id
    from farebox.system.secrets import make_password

    given = sys.stdin.readline().rstrip("\r\n") if args.password_stdin else None
    password = make_password() if given is None else given
    user_id = await make_console_user(
        session.connection, args.email, password, operator=args.operator, by=session.by
    )
    (user,) = await session.people_store.users(user_id=user_id, limit=1)
    document: Document = {
        "id": format_id("user", user_id),
        "email": user.email,
        "operator": user.operator,
    }
    if given is None:
        document["password"] = password

    def text() -> None:
        shown = {**document, "operator": "yes" if user.operator else "no"}
        facts((name.replace("_", " "), value) for name, value in shown.items())
        if not user.operator:
            hint("Make them a member: farebox members add EMAIL --role ROLE")
        if given is None:
            hint("The password is shown once; `farebox users add` again makes a new one.")

    show(args, document, text)
    return 0
