"""What the pages show, as HTML. Every text in it is escaped: captions may hold markup."""

import base64
import io
import math
from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image

from captioner.bundle import Caption
from captioner.overlay import overlay
from captioner.recommend import Result


def notice(text: str) -> str:
    """A sentence in a box: what is missing, what went wrong."""
    return f"<p class='notice' role='status'>{escape(text)}</p>"


def alternatives(captions: Sequence[Caption], words: Sequence[Sequence[str]], clickable: bool):
    """Captions, best first, each word a button, with their probabilities.

    Args:
        captions: of one picture; words: of each of them.
        clickable: whether there is something to see behind the words.
    """
    total = math.fsum(math.exp(caption.log_probability) for caption in captions) or 1.0
    rows = []
    for number, (caption, said) in enumerate(zip(captions, words, strict=True)):
        probability = math.exp(caption.log_probability)
        buttons = [
            f"<button type='button' class='word' data-caption='{number}' data-word='{place}' "
            f"aria-label='{escape(word)}: where the model looked'>{escape(word)}</button>"
            if clickable
            else escape(word)
            for place, word in enumerate(said)
        ]
        rows.append(
            f"<li{' class=best' if not number else ''}><span class='said' data-text='"
            f"{escape(caption.text)}'>{' '.join(buttons)}</span>"
            f"<span class='chance' title='probability of the whole sentence'>"
            f"<span class='bar' style='width:{4 * probability / total:.2f}em'></span>"
            f"{_percent(probability)}</span></li>"
        )
    return f"<ol class='captions'>{''.join(rows)}</ol>"


def _percent(probability: float) -> str:
    percent = 100 * probability
    return f"{percent:.0f} %" if percent >= 10 else f"{percent:.2g} %"


def looked_at(pixels: np.ndarray, words: Sequence[str], weights: np.ndarray, place: int) -> str:
    """The picture with the attention of one word over it.

    Args:
        pixels: (size, size, 3) uint8; weights: (words, rows, columns); place: of the word.
    """
    seen = overlay(pixels, weights[place], float(weights[place].max()))
    text = f"where the model looked as it said “{words[place]}”"
    return (
        f"<figure class='looked'><img src='{embedded(seen)}' alt='{escape(text)}'>"
        f"<figcaption>{escape(text)}: the brighter, the more</figcaption></figure>"
    )


def embedded(pixels: np.ndarray) -> str:
    """Pixels as the address of a picture."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=90)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def query(caption: str, source: str) -> str:
    """The picture that others are shown for.

    Args:
        source: its address, a row of the collection or a data URI.
    """
    return (
        f"<figure class='query'><img src='{escape(source)}' alt='{escape(caption)}'>"
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def grid(results: Sequence[Result], rows: Sequence[int], label: str) -> str:
    """Pictures with their captions and reasons; a click on one goes on from there.

    Args:
        results: what was found; rows: of the collection, where they are.
        label: what they are, for screen readers.
    """
    cells = []
    for result, row in zip(results, rows, strict=True):
        reasons = [f"means {result.means_alike:.2f}"] if result.score else []
        if result.looks_alike is not None:
            reasons.insert(0, f"looks {result.looks_alike:.2f}")
        if result.shared:
            reasons.append("shares " + ", ".join(result.shared))
        if result.copies:
            reasons.append(f"and {len(result.copies)} like it")
        why = f"<span class='why'>{escape(' · '.join(reasons))}</span>" if reasons else ""
        caption = escape(result.caption)
        cells.append(
            f"<li><button type='button' data-row='{row}' title='more like this one'>"
            f"<img src='pictures/{row}.jpg' alt='{caption}' loading='lazy' width='160' "
            f"height='160'><span class='caption'>{caption}</span>{why}</button></li>"
        )
    return f"<ul class='grid' aria-label='{escape(label)}'>{''.join(cells)}</ul>"


def sentence(words: Sequence[str], unknown: Sequence[str]) -> str:
    """A query with the words that are not known struck through.

    Args:
        words: of the query, as the vocabulary splits them; unknown: those that it does not know.
    """
    shown = [
        f"<s title='not a word of the training captions'>{escape(word)}</s>"
        if word in unknown
        else escape(word)
        for word in words
    ]
    note = " <span class='why'>struck through: not known, left out</span>" if unknown else ""
    return f"<p class='sentence'>{' '.join(shown)}{note}</p>"


def neighbours(found: Sequence[tuple[str, float, int]]) -> str:
    """Words like a word, each a button."""
    rows = [
        f"<li><button type='button' data-word='{escape(word)}'>{escape(word)}</button>"
        f"<span class='bar' style='width:{max(similarity, 0) * 6:.2f}em'></span>"
        f"<span class='why'>{similarity:.2f} · said {count:,} times</span></li>"
        for word, similarity, count in found
    ]
    return f"<ul class='words'>{''.join(rows)}</ul>"
