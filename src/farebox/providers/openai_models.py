"""What OpenAI publishes about its models besides prices, as far as a ceiling needs it.

The figures bound money, so each is the largest that any published rule allows, and a model that no
line here covers has none: its images then cost up to its whole context window.

Sources, read in November 2026:

- output limits: the model pages of developers.openai.com, as collected in litellm 1.109.1;
- image tokens: the guide "Images and vision", sections "Model sizing behavior" and "Calculating
  costs". Patches of 32 x 32 pixels times a multiplier: 10,000 patches for GPT-5.4 and GPT-5.5; up
  to 30,000 for GPT-5.6 and GPT-6, beyond which a request is rejected; 6,144 for GPT-5.2 and the
  smaller ones. Tiles: a base plus at most eight tiles (2048 x 768 pixels in squares of 512);
- vocabulary: ``model.py`` of tiktoken 0.14.0, which names no vocabulary for GPT-6.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple


class OpenAIFacts(NamedTuple):
    """Published bounds of a family of models; None means not known."""

    output_max: int | None = None
    image_tokens_max: int | None = None
    context_window: int | None = None
    """Where it is larger than the catalogue's rounded figure."""


def _patches(patches: int, multiplier_percent: int) -> int:
    """Tokens of an image in patches; one more, since billing may differ by a token."""
    return -(-patches * multiplier_percent // 100) + 1


def _tiles(base: int, tile: int) -> int:
    """Tokens of the largest image in tiles; one more likewise."""
    return base + 8 * tile + 1


_FAMILIES: Final = tuple(
    (re.compile(pattern), facts)
    for pattern, facts in (
        # The page gives no multiplier for GPT-6; the highest published one is 2.46.
        (r"gpt-6(\.\d+)?-(astra|sol|terra|luna)", OpenAIFacts(128_000, _patches(30_000, 246))),
        (r"gpt-5\.6-(sol|terra|luna)", OpenAIFacts(128_000, _patches(30_000, 120))),
        (r"gpt-5\.5", OpenAIFacts(128_000, _patches(10_000, 120), 1_050_000)),
        (r"gpt-5\.4(-mini|-nano)?", OpenAIFacts(128_000, _patches(10_000, 120))),
        (r"gpt-5\.[45]-pro", OpenAIFacts(128_000, None, 1_050_000)),
        # Entries that a chat or codex variant shares have the larger rule of the two.
        (r"gpt-5(\.[123])?(-codex|-codex-mini|-mini)?", OpenAIFacts(128_000, _patches(6_144, 120))),
        (r"gpt-5-nano", OpenAIFacts(128_000, _patches(6_144, 150))),
        (r"gpt-5-pro", OpenAIFacts(272_000)),
        (r"gpt-5\.2-pro|gpt-5-search-api|gpt-chat-latest|gpt-6-rosalind", OpenAIFacts(128_000)),
        (r"gpt-4\.1", OpenAIFacts(32_768, _patches(1_536, 100), 1_047_576)),
        (r"gpt-4\.1-mini", OpenAIFacts(32_768, _patches(6_144, 162), 1_047_576)),
        (r"gpt-4\.1-nano", OpenAIFacts(32_768, _patches(6_144, 246), 1_047_576)),
        (r"gpt-4o|chatgpt-4o-latest", OpenAIFacts(16_384, _tiles(85, 170))),
        (
            r"gpt-4o-2024-05-13|gpt-4-turbo|gpt-4-vision-preview",
            OpenAIFacts(4_096, _tiles(85, 170)),
        ),
        (r"gpt-4o-mini", OpenAIFacts(16_384, _tiles(2_833, 5_667))),
        (r"gpt-4\.5-preview", OpenAIFacts(16_384, _tiles(85, 170))),
        (r"gpt-4o(-mini)?-audio-preview|gpt-audio(-mini)?", OpenAIFacts(16_384)),
        (r"gpt-4o-search-preview", OpenAIFacts(16_384)),
        (r"o1|o1-pro|o3|o3-pro", OpenAIFacts(100_000, _tiles(75, 150))),
        (r"o4-mini", OpenAIFacts(100_000, _patches(6_144, 172))),
        (r"o3-mini|o3-deep-research|o4-mini-deep-research|codex-mini", OpenAIFacts(100_000)),
        (r"o1-mini", OpenAIFacts(65_536)),
        (r"o1-preview", OpenAIFacts(32_768)),
        (r"gpt-3\.5-turbo(-1106|-16k)?|gpt-4", OpenAIFacts(4_096)),
    )
)

_O200K_PREFIXES: Final = (
    "chatgpt-4o-",
    "ft:gpt-4o",
    "gpt-4.1",
    "gpt-4.5-",
    "gpt-4o",
    "gpt-5",
    "o1",
    "o3",
    "o4-mini",
)


def openai_facts(model: str) -> OpenAIFacts:
    """The bounds of a model by its catalogue name; all None for one that no family here covers."""
    for pattern, facts in _FAMILIES:
        if pattern.fullmatch(model):
            return facts
    return OpenAIFacts()


def counts_o200k(model: str) -> bool:
    """Whether tiktoken says that the model's tokens are those of o200k_base."""
    return model.startswith(_O200K_PREFIXES)
