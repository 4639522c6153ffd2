"""``farebox doctor``: why a call, a key or an organisation has trouble, and what to do about it."""

from __future__ import annotations

import sys
import textwrap
from typing import TYPE_CHECKING, Final

from farebox.cli.output import WIDTH, Document, hint, say, show, table

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from farebox.advice.codes import Code
    from farebox.advice.findings import Diagnosis, Evidence, Finding
    from farebox.cli.database import Session

STDIN: Final = "-"
TEXT_BYTES_MAX: Final = 256 * 1024
"""More of a file is no error body but a log."""

VALUE_COLUMN: Final = 36
"""Where the figures of evidence begin."""


_AREAS: Final = {
    "api_billing": "API billing",
    "subscription": "A subscription, which is no API billing",
    "not_billing": "Not a billing matter",
}
_WORDS: Final = {"organization": "organisation", "error": "error code", "use": "spending"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.description = (
        "Say what is wrong and what to do about it. COMPLAINT is a request id (the answer's "
        "x-request-id), an error as it was received (JSON, or what a client printed), a key's id "
        "or first letters, an organisation or project, or a finding's code. Left out, the only "
        "organisation there is. Exit status 1 if something is wrong now."
    )
    parser.add_argument("complaint", nargs="*", metavar="COMPLAINT", help="- reads it from stdin")
    parser.add_argument("--file", metavar="FILE", help="read the complaint from a file")
    parser.add_argument("--org", metavar="ORG", help="whose error it is: id or name")
    parser.add_argument("--key", metavar="KEY", help="the key that was used: id or first letters")
    parser.add_argument("--model", metavar="MODEL", help="the model that was called")
    parser.add_argument(
        "--books", action="store_true", help="check the books too, however many calls there are"
    )
    parser.add_argument("--codes", action="store_true", help="list every finding there can be")


def run(args: argparse.Namespace) -> int:
    """Do what was asked."""
    from farebox.advice.catalogue import code_named

    if args.codes:
        return _codes(args)
    text = _complaint(args)
    code = code_named(text)
    if code is not None:
        return _explain(args, code)
    from farebox.cli.database import work

    return work(args, lambda session: _examine(session, args, text))


def _complaint(args: argparse.Namespace) -> str:
    """The text to look at; empty where nothing was given."""
    from pathlib import Path

    from farebox.kit.errors import InvalidInputError

    if args.file is not None:
        if args.complaint:
            raise InvalidInputError("COMPLAINT", "must not be given together with --file")
        try:
            with Path(args.file).open("rb") as file:
                return file.read(TEXT_BYTES_MAX).decode(errors="replace")
        except OSError as error:
            reason = f"cannot be read: {error.strerror or error}"
            raise InvalidInputError("file", reason) from error
    if args.complaint == [STDIN]:
        text = sys.stdin.read(TEXT_BYTES_MAX)
        if not text.strip():
            raise InvalidInputError("COMPLAINT", "must not be empty on stdin")
        return text
    return " ".join(args.complaint)


async def _examine(session: Session, args: argparse.Namespace, text: str) -> int:
    from farebox.advice.findings import Status
    from farebox.kit.ids import format_id
    from farebox.operations.diagnosis import Hints, examine
    from farebox.operations.diagnosis_documents import diagnosis_document
    from farebox.storage.diagnosis_store import PostgresDiagnosisStore

    if not text.strip():
        organization = await session.organization(args.org)
        text = format_id("org", organization.id)
    hints = Hints(
        organization=args.org, key=args.key, model=args.model, books=True if args.books else None
    )
    diagnosis = await examine(PostgresDiagnosisStore(session.connection), text, hints)
    settings = session.settings
    base = settings.console_url or f"http://{settings.console_host}:{settings.console_port}"
    document = diagnosis_document(diagnosis, base=base)
    show(args, document, lambda: _print(diagnosis))
    return 1 if diagnosis.status is Status.WRONG else 0


def _print(diagnosis: Diagnosis) -> None:
    say(*_lines(diagnosis))


def _lines(diagnosis: Diagnosis) -> Iterator[str]:
    """The diagnosis in 80 columns: the cause first, then each finding, then what was checked."""
    status = diagnosis.status.value.upper()
    about = _cut(diagnosis.about, WIDTH - len(status) - 2)
    yield f"{about:<{WIDTH - len(status)}}{status}"
    if diagnosis.whose and diagnosis.whose != diagnosis.about:
        yield from _wrapped(diagnosis.whose)
    yield _AREAS[diagnosis.area.value]
    if not diagnosis.findings:
        yield ""
        yield from _wrapped(diagnosis.summary)
    for finding in diagnosis.findings:
        yield ""
        yield from _finding(finding, diagnosis)
    yield ""
    yield from _wrapped(_checked(diagnosis))


def _finding(finding: Finding, diagnosis: Diagnosis) -> Iterator[str]:
    word = "mended" if finding.mended else finding.severity.value
    yield from _wrapped(f"{finding.code.value} {word}: {finding.title}", rest="    ")
    yield from _wrapped(finding.cause, first="    ", rest="    ")
    shown = ""
    for evidence in finding.evidence:
        source = _source(evidence, diagnosis)
        if source != shown:
            yield f"      {_cut(source, WIDTH - 6)}:"
            shown = source
        yield from _figure(evidence)
    for number, fix in enumerate(finding.fixes, 1):
        end = ":" if fix.command else "."
        yield from _wrapped(f"{number}. {fix.text}{end}", first="    ", rest="       ")
        if fix.command:
            yield f"         {fix.command}"  # what people copy is in one piece


def _source(evidence: Evidence, diagnosis: Diagnosis) -> str:
    """Which record says so, and how old that is."""
    from farebox.advice.wording import ago

    return f"{evidence.source}, {ago(diagnosis.at - evidence.at)}"


def _figure(evidence: Evidence) -> Iterator[str]:
    value = f"{evidence.value} {evidence.unit}".strip()
    label = f"        {evidence.label}"
    line = f"{label:<{VALUE_COLUMN}}  {value}"
    if len(line) <= WIDTH:
        yield line
    else:
        yield from _wrapped(f"{evidence.label}: {value}", first="        ", rest="          ")


def _checked(diagnosis: Diagnosis) -> str:
    """Which steps were looked at, in their order, and which were not."""
    from farebox.advice.findings import Outcome

    looked = [
        _WORDS.get(check.step.value, check.step.value)
        for check in diagnosis.checks
        if check.outcome is not Outcome.SKIPPED
    ]
    not_looked: dict[str, list[str]] = {}
    for check in diagnosis.checks:
        if check.outcome is Outcome.SKIPPED:
            not_looked.setdefault(check.note, []).append(
                _WORDS.get(check.step.value, check.step.value)
            )
    text = f"Checked at {diagnosis.at:%Y-%m-%d %H:%M:%S} UTC: {', '.join(looked)}."
    if not_looked:
        parts = (f"{', '.join(steps)} ({note})" for note, steps in not_looked.items())
        text += f" Not checked: {'; '.join(parts)}."
    return text


def _explain(args: argparse.Namespace, code: Code) -> int:
    """What the catalogue says of one finding; no database is needed for it."""
    from farebox.operations.diagnosis_documents import code_document

    document = code_document(code)

    def text() -> None:
        say(f"{code.value} {document['title']}")
        say(*_wrapped(document["meaning"], first="    ", rest="    "))
        say(*_wrapped(f"What to do: {document['remedy']}", first="    ", rest="    "))

    show(args, document, text)
    return 0


def _codes(args: argparse.Namespace) -> int:
    from farebox.advice.codes import Code
    from farebox.cli.output import page
    from farebox.operations.diagnosis_documents import code_document

    rows: list[Document] = [code_document(code) for code in Code]

    def text() -> None:
        table(("*code", "step", "finding"), [(r["code"], r["step"], r["title"]) for r in rows])
        hint("More about one: farebox doctor CODE")

    show(args, page(rows, None), text)
    return 0


def _wrapped(text: str, *, first: str = "", rest: str = "") -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False
    )


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."
