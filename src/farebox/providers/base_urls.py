"""Where a provider's API lives: reading and checking its base URL.

The result is safe to put a path behind: no credentials, query or fragment, one spelling per place.
"""

from __future__ import annotations

import re
from typing import Final, Literal
from urllib.parse import urlsplit

from farebox.kit.errors import InvalidInputError

Style = Literal["openai", "azure"]
"""How a provider wants its key: ``Authorization: Bearer`` or Azure's ``api-key`` header."""

MODEL_PLACEHOLDER: Final = "{model}"
"""Stands in an Azure base URL for the deployment, which is then the model the body names."""

_LENGTH_MAX: Final = 2048
"""Longer than any real base URL; keeps errors and rows short."""

_FIELD: Final = "base_url"
_PRINTABLE: Final = re.compile(r"[!-~]+")
_HOST: Final = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+(?:%25[A-Za-z0-9._-]+)?")
_PATH: Final = re.compile(r"(?:/[A-Za-z0-9._~!$&'()*+,;=:@%-]+)*")
_ENDPOINT: Final = re.compile(r"/(?:chat/completions|completions|responses|embeddings|models)$")


def parse_base_url(text: str, *, style: Style = "openai") -> str:
    """Read a provider's base URL and give its one spelling: lower-case host, no trailing slash.

    Args:
        text: For example ``https://api.openai.com/v1``, ``http://127.0.0.1:8000/v1``, or for Azure
            ``https://NAME.openai.azure.com/openai/v1`` and, for its older per-deployment form,
            ``https://NAME.openai.azure.com/openai/deployments/{model}``.
        style: Only ``azure`` may hold the placeholder ``{model}``, as a whole path segment.

    Raises:
        InvalidInputError: It is no plain http or https URL, or holds a key, a query or a fragment.
    """
    stripped = text.strip()
    if not stripped or len(stripped) > _LENGTH_MAX:
        raise InvalidInputError(_FIELD, f"must have 1 to {_LENGTH_MAX} characters")
    if not _PRINTABLE.fullmatch(stripped):
        reason = "must be plain ASCII without spaces (write a foreign host name as punycode)"
        raise InvalidInputError(_FIELD, reason)
    try:
        parts = urlsplit(stripped)
        port = parts.port
    except ValueError as error:
        raise InvalidInputError(_FIELD, f"is no URL: {error}") from error
    if parts.scheme not in {"http", "https"}:
        raise InvalidInputError(_FIELD, "must begin with http:// or https://")
    if "@" in parts.netloc:
        # The text is not repeated: it may hold a secret.
        raise InvalidInputError(_FIELD, "must not hold credentials; give the key on its own")
    if "?" in stripped or "#" in stripped:
        reason = "must not have a query or a fragment (an Azure api-version is given on its own)"
        raise InvalidInputError(_FIELD, reason)
    host = parts.hostname
    if not host or not _HOST.fullmatch(host) or port == 0:
        raise InvalidInputError(_FIELD, "must name a host, such as https://api.openai.com/v1")
    place = f"[{host}]" if ":" in host else host
    place += "" if port is None else f":{port}"
    return f"{parts.scheme}://{place}{_parse_path(parts.path.rstrip('/'), style)}"


def _parse_path(path: str, style: Style) -> str:
    """Check the path of a base URL; it comes without its trailing slash."""
    segments = path.split("/")[1:]
    checked = path
    if MODEL_PLACEHOLDER in segments and style == "azure":
        checked = path.replace(f"/{MODEL_PLACEHOLDER}", "/model", 1)
    elif "{" in path or "}" in path:
        reason = f"may hold {MODEL_PLACEHOLDER} only as a whole path segment, and only for Azure"
        raise InvalidInputError(_FIELD, reason)
    if "." in segments or ".." in segments or not _PATH.fullmatch(checked):
        raise InvalidInputError(_FIELD, "must have a plain path such as /v1")
    if _ENDPOINT.search(path):
        reason = "must be the base URL, without an endpoint such as /chat/completions"
        raise InvalidInputError(_FIELD, reason)
    return path
