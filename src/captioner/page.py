"""All captions of the test split as one HTML page, for a person to look at, search and sort.

One file that needs nothing else: pictures are `data:` addresses, style and script are inline
(`page.html` beside this module). Captions come from people and models, so they are escaped, and the
page's Content-Security-Policy lets run no style or script but the two blocks whose sha256 it names:
markup that slipped through would do nothing. Source: W3C CSP Level 3, section 2.3.1 (hashes).
"""

import base64
import hashlib
import io
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import pandas as pd
import pyarrow as pa
from PIL import Image

from captioner.files import atomic_file
from captioner.metrics.tokenizer import tokenize

TEMPLATE = Path(__file__).with_name("page.html")
SIDE = 128  # pixels of the largest picture on the page
QUALITY = 80  # of pictures that are reduced


@dataclass(frozen=True)
class Measure:
    """A score of all captions together, and what to compare it with, where that is known.

    Attributes:
        name: as a person calls it: "CIDEr-D".
        score: of the generated captions.
        interval: low and high end of the 95% confidence interval.
        constant: score of the best constant caption (the floor).
        nearest: score of the captions of the nearest training pictures.
        people: score of a person's caption against the others' (the ceiling).
    """

    name: str
    score: float
    interval: tuple[float, float] | None = None
    constant: float | None = None
    nearest: float | None = None
    people: float | None = None


# What stands in the head of the summary's columns, and the sentence that explains it.
COMPARISONS = {
    "interval": ("95% interval", ""),
    "constant": ("constant caption", "Constant caption: one sentence said of every picture."),
    "nearest": (
        "nearest picture",
        "Nearest picture: a caption of the most similar training picture.",
    ),
    "people": ("people", "People: one person's caption scored against the others'."),
}
MARKED = "Dotted underline: a word of the generated caption that no reference has."
# Columns of the predictions that are shown as scores, where they are there.
SCORES = {
    "cider_d": "CIDEr-D",
    "rouge_l": "ROUGE-L",
    "bleu_4": "BLEU-4",
    "meteor": "METEOR",
    "spice": "SPICE",
    "truthful": "truthful",
    "log_probability": "log p",
    "words": "words",
}
# Sort keys that are not a score like any other: label, the order's name upwards and downwards, and
# the direction to start with.
KEYS = {
    "place": ("original order", "first to last", "last to first", "up"),
    "words": ("caption length", "shortest first", "longest first", "down"),
    "log_probability": ("log probability", "lowest first", "highest first", "down"),
    "truthful": ("truthful", "untrue first", "true first", "up"),
    "image_id": ("image id", "A to Z", "Z to A", "up"),
}

# What HTML cannot hold or nobody can see: controls, lone surrogates and noncharacters.
_BLANKS = re.compile("[\t\n\v\f\r\x85\u2028\u2029]")
_CONTROLS = re.compile("[\0-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


def write_page(
    path: Path | str,
    predictions: pa.Table,
    thumbnails: Iterable[bytes],
    title: str,
    summary: Sequence[Measure] = (),
    note: str = "",
    words_of: Callable[[str], list[str]] = tokenize,
) -> None:
    """Write the page; equal arguments give equal bytes, and memory holds a few rows at a time.

    The page keeps the rows' order until somebody sorts: it favours neither good nor bad captions,
    and the pages of two experiments show the same picture in the same place.

    Args:
        path: the HTML file; it appears whole or not at all.
        predictions: a row for each picture with image_id, caption and references (list<str>); of
            `SCORES`, nearest_image_id and nearest_caption what there is. `truthful` may be bool.
        thumbnails: the JPEG of each row's picture; larger ones are reduced to `SIDE` pixels.
        title: the heading.
        summary: scores of all captions, for the table at the top.
        note: a sentence more below that table.
        words_of: a caption's words, as they were scored; some of them are marked, all counted.

    Raises:
        ValueError: there are more or fewer thumbnails than rows.
    """
    template = TEMPLATE.read_text(encoding="utf-8")
    scores = [name for name in SCORES if name == "words" or name in predictions.column_names]
    compared = [n for n in COMPARISONS if any(getattr(m, n) is not None for m in summary)]
    fields = {
        "policy": escape(policy(template)),
        "title": text(title),
        "summary": _summary(summary, compared),
        "notes": " ".join([*(COMPARISONS[n][1] for n in compared), MARKED, text(note)]).strip(),
        "keys": "\n".join(_option(key) for key in ("place", *scores, "image_id")),
    }
    # One pass, so that a title that looks like a field stays a title.
    head, tail = (
        re.sub(r"\{\{(\w+)\}\}", lambda field: fields[field[1]], part)
        for part in template.split("{{rows}}\n")
    )
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as f:
        f.write(head)
        for number, (row, jpeg) in enumerate(zip(_rows(predictions), thumbnails, strict=True), 1):
            f.write(_row(number, row, reduced(jpeg), scores, words_of))
        f.write(tail)


def measures(table: pd.DataFrame) -> list[Measure]:
    """The summary out of `evaluation.Evaluation.table`: BLEU-4, and all that is no BLEU."""
    found = []
    for name, label in SCORES.items():
        rows = table[table["measure"] == name].set_index("system")
        if len(rows):
            score = rows["score"].to_dict()
            own = rows.loc["model"]
            others = (score.get(system) for system in ("constant", "nearest", "human"))
            found.append(Measure(label, own["score"], (own["low"], own["high"]), *others))
    return found


def policy(template: str) -> str:
    """The page's Content-Security-Policy: nothing but its own two blocks and inline pictures."""
    sources = {}
    for tag in ("style", "script"):
        (block,) = re.findall(rf"<{tag}>(.*?)</{tag}>", template, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(block.encode()).digest()).decode()
        sources[tag] = f"{tag}-src 'sha256-{digest}'"
    rest = "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'"
    return "; ".join([rest, *sources.values()])


def reduced(jpeg: bytes) -> bytes:
    """A JPEG whose longer side is at most `SIDE` pixels; smaller ones stay as they are."""
    with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as image:
        if max(image.size) <= SIDE:
            return jpeg
        # Fewer pixels are decoded, at least twice as many as wanted.
        image.draft("RGB", (2 * SIDE, 2 * SIDE))
        small = image.convert("RGB")
        small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        stream = io.BytesIO()
        small.save(stream, "JPEG", quality=QUALITY, optimize=True)
        return stream.getvalue()


def text(value: object) -> str:
    """Text for HTML and its attributes: escaped, line breaks as blanks, controls as U+FFFD."""
    return escape(_CONTROLS.sub("\ufffd", _BLANKS.sub(" ", str(value))))


def _rows(predictions: pa.Table) -> Iterator[dict]:
    for batch in predictions.to_batches(max_chunksize=100):
        yield from batch.to_pylist()


def _summary(summary: Sequence[Measure], compared: Sequence[str]) -> str:
    if not summary:
        return ""
    heads = ["measure", "score", *(COMPARISONS[name][0] for name in compared)]
    lines = [
        # Wider than a phone: scrolled by itself, also with the keyboard.
        '<div class="summary" role="region" aria-label="Scores of all captions" tabindex="0">',
        "<table><thead><tr>",
        *(f'<th scope="col">{head}</th>' for head in heads),
        "</tr></thead><tbody>",
    ]
    for measure in summary:
        values = [measure.score, *(getattr(measure, name) for name in compared)]
        cells = "".join(f"<td>{_number(value, 3)}</td>" for value in values)
        lines.append(f'<tr><th scope="row">{text(measure.name)}</th>{cells}</tr>')
    return "\n".join([*lines, "</tbody></table></div>"])


def _option(key: str) -> str:
    best_first = (SCORES.get(key), "lowest first", "highest first", "down")
    label, up, down, start = KEYS.get(key, best_first)
    return (
        f'<option value="{key}" data-up="{up}" data-down="{down}" data-start="{start}">'
        f"{label}</option>"
    )


def _row(
    number: int,
    row: Mapping,
    jpeg: bytes,
    scores: Sequence[str],
    words_of: Callable[[str], list[str]],
) -> str:
    """A row of the list, its scores as data attributes for the script too."""
    caption, references = row["caption"] or "", row["references"] or []
    values = {**row, "words": len(words_of(caption))}
    # A missing score has no attribute; `sort` puts such rows last.
    known = {n: values[n] for n in scores if values[n] is not None and not math.isnan(values[n])}
    data = "".join(f' data-{name}="{float(value):.6g}"' for name, value in known.items())
    shown = "".join(
        f"<div><dt>{SCORES[name]}</dt> <dd>{_number(value, 2)}</dd></div>"
        for name, value in known.items()
    )
    picture = f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
    listed = "\n".join(f'<li dir="auto">{text(reference)}</li>' for reference in references)
    return f"""<li class="row"{data}>
<img src="{picture}" alt="{text(caption) or "empty caption"}" decoding="async">
<div class="said">
<p class="caption" dir="auto">{_marked(caption, references, words_of)}</p>
<dl class="scores">{shown}</dl>
<p class="id">{number} · <bdi>{text(row["image_id"])}</bdi></p>
</div>
<div class="written">
<p class="label">References</p>
<ul class="references">
{listed}
</ul>
{_nearest(row)}</div>
</li>
"""


def _marked(caption: str, references: Sequence[str], words_of: Callable[[str], list[str]]) -> str:
    """The caption as HTML; words that no reference has are in <u>, if there are references."""
    if not caption.strip():
        return '<span class="empty">(empty caption)</span>'
    known = {token for reference in references for token in words_of(reference)}
    # Letter by letter, since a few letters grow in lower case and would move what follows.
    lower = "".join(c.lower() if len(c.lower()) == 1 else c for c in caption)
    parts, end = [], 0
    for token in words_of(caption) if references else ():
        start = lower.find(token, end)
        if start < 0:  # the tokenizer has rewritten it (quotes, brackets)
            continue
        word = text(caption[start : start + len(token)])
        parts.append(text(caption[end:start]))
        parts.append(word if token in known else f"<u>{word}</u>")
        end = start + len(token)
    return "".join([*parts, text(caption[end:])])


def _nearest(row: Mapping) -> str:
    if row.get("nearest_caption") is None:
        return ""
    image_id = row.get("nearest_image_id")
    source = "" if image_id is None else f" · <bdi>{text(image_id)}</bdi>"
    return (
        f'<p class="label">Nearest training picture{source}</p>\n'
        f'<p class="nearest" dir="auto">{text(row["nearest_caption"])}</p>\n'
    )


def _number(value: float | bool | Sequence[float] | None, digits: int) -> str:
    """A number as a person reads it, with a true minus sign."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Sequence):
        return " – ".join(_number(end, digits) for end in value)
    if value is None or math.isnan(value):
        return "–"
    if isinstance(value, int):
        return str(value)
    return f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")
