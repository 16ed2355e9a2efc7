"""Mutated caption files and params.yaml, through their readers and through commands."""

import contextlib
import functools
import io
import json
import random
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from benchmarks.reliability import ROOT
from benchmarks.reliability.cases import Wrong
from benchmarks.reliability.images import seeds as images
from benchmarks.reliability.mutations import mutate
from captioner import CaptionerError, cli
from captioner.caption_files import read_hypotheses, read_references, read_rows
from captioner.params import load_params

NAMES = [f"{number:04d}.jpg" for number in range(6)]
SENTENCES = [
    "a small red circle",
    'he said "a dog", twice',
    "ein Hund läuft; schnell",
    "一只红色的圆",
    "don't stop",
    "a\tb",
]
# Texts that stand in the place of a value of JSON, CSV or YAML.
VALUES = [
    "null", "true", "-1", "0", "1e999", "-0.0", "NaN", ".inf", "[]", "{}", '""', "''", "~",
    "9" * 25, "9" * 5000, "0x" + "f" * 5000, "1e-05", "2001-01-01", "0o777", "1_000", "*a",
    "&a [*a]", "!!python/object/apply:os.system [id]", "!!binary x", "? x", "a: b: c", "[" * 3000,
    "{" * 3000, "- " * 2000, '"\\ud800"', '"\\u0000"', "\0", "\ufeff", "\x1b[2J", "é" * 10, '"',
    "x" * 200_000, "../../../../etc/passwd", "/dev/zero", "=cmd|' /C calc'!A0", "\r", "\n\n\n",
    ",,,,", ";;;;",
]  # fmt: skip


@functools.cache
def seeds() -> list[tuple[str, bytes]]:
    """Suffix and bytes of sound caption files, one of each format that is read."""
    pairs = [(name, text) for name in NAMES for text in random.Random(1).sample(SENTENCES, 2)]
    table = pd.DataFrame(pairs, columns=["image", "caption"])
    rows = [{"image_id": name, "caption": text} for name, text in pairs]
    one_each = dict(pairs)
    files = [{"id": number, "file_name": name} for number, name in enumerate(NAMES)]
    coco = {
        "images": files,
        "annotations": [
            {"id": number, "image_id": NAMES.index(name), "caption": text}
            for number, (name, text) in enumerate(pairs)
        ],
    }
    karpathy = {
        "images": [
            {"filename": name, "split": "train", "sentences": [{"raw": text, "tokens": ["a"]}]}
            for name, text in one_each.items()
        ]
    }

    def parquet(frame: pd.DataFrame, **options: object) -> bytes:
        stream = io.BytesIO()
        frame.to_parquet(stream, **options)
        return stream.getvalue()

    lists = table.groupby("image", as_index=False).agg(list)
    return [
        (".csv", table.to_csv(index=False).encode()),
        (".csv", table.assign(split="train", n=1.5).to_csv(index=False, sep=";").encode()),
        (".csv", table.to_csv(index=False).encode("utf-8-sig")),
        (".csv", table.to_csv(index=False).encode("utf-16")),
        (".tsv", table.to_csv(index=False, sep="\t").encode()),
        (".json", json.dumps(coco).encode()),
        (".json", json.dumps(karpathy).encode()),
        (".json", json.dumps(rows, indent=1, ensure_ascii=False).encode()),
        (".json", json.dumps(one_each).encode()),
        (".jsonl", "".join(f"{json.dumps(row)}\n" for row in rows).encode()),
        (".parquet", parquet(table)),
        (".parquet", parquet(lists, compression="gzip")),
        (".parquet", parquet(pd.concat([table] * 300), row_group_size=500)),
        (".txt", "".join(f"{name}#{n}\t{text}\n" for n, (name, text) in enumerate(pairs)).encode()),
    ]


def _mutate(data: bytes, rng: np.random.Generator, others: list[bytes]) -> tuple[bytes, str]:
    """Faults of bytes, or of a text's lines and values."""
    if data.startswith(b"PAR1") or rng.integers(2):
        return mutate(data, rng, others)
    lines, faults = data.decode("utf-8", "surrogateescape").split("\n"), []
    for _ in range(rng.integers(1, 5)):
        place = int(rng.integers(len(lines)))
        fault = str(rng.choice(["drop", "repeat", "swap", "value", "indent"]))
        if fault == "drop" and len(lines) > 1:
            del lines[place]
        elif fault == "repeat":
            lines[place:place] = lines[place : place + 1] * int(rng.choice([1, 2, 1000]))
        elif fault == "swap":
            other = int(rng.integers(len(lines)))
            lines[place], lines[other] = lines[other], lines[place]
        elif fault == "indent":
            lines[place] = " " * int(rng.integers(1, 9)) + lines[place].lstrip()
        elif fault == "value":
            value = VALUES[rng.integers(len(VALUES))]
            sign = str(rng.choice([": ", ",", ";", "\t", " "]))
            head, found, tail = lines[place].partition(sign)
            rest = tail[tail.find(",") :] if "," in tail and rng.integers(2) else ""
            lines[place] = f"{head}{sign}{value}{rest}" if found else value
        faults.append(fault)
    return "\n".join(lines).encode("utf-8", "surrogateescape"), "+".join(faults)


def command(*arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a captioner command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = cli.main(list(map(str, arguments)))
        except SystemExit as end:
            code = end.code
    if code not in (0, 1, 2):
        raise Wrong(f"exit code {code}: {err.getvalue()[-500:]}")
    return code, out.getvalue(), err.getvalue()


def check_data(captions: Path, pictures: Path, folder: Path) -> int:
    """`captioner check-data` of a table; returns the exit code."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text("utf-8"))
    params["datasets"]["table"]["download"] |= {
        "captions": str(captions),
        "pictures": str(pictures),
    }
    params["datasets"]["table"]["preprocess"] = {"side": 32}
    params["datasets"]["table"]["encoder"]["backbone"] = "cnn"
    settings, report = folder / "settings.yaml", folder / "report"
    settings.write_text(yaml.safe_dump(params), "utf-8")
    options = ("--dataset", "table", "--params", settings, "--report", report)
    code, _, err = command("check-data", *options)
    there = sorted(path.name for path in report.iterdir()) if report.exists() else []
    if there and "report.json" not in there:
        raise Wrong(f"half a report: {there}")
    if not there and (code != 2 or not err.strip()):
        raise Wrong(f"no report, exit code {code}: {err[-500:]}")
    return code


def case(rng: np.random.Generator, number: int, folder: Path) -> str:
    """One caption file through all readers, or through `check-data` or `score`."""
    suffix, data = seeds()[rng.integers(len(seeds()))]
    data, what = _mutate(data, rng, [other for _, other in seeds()])
    file = folder / f"captions{suffix}"
    file.write_bytes(data)
    what = f"{suffix} {what}"
    if number % 5 == 0:
        pictures = folder / "pictures"
        pictures.mkdir()
        for name, (_, picture) in zip(NAMES, images(), strict=False):
            (pictures / name).write_bytes(picture)
        return f"check-data {what}: exit code {check_data(file, pictures, folder)}"
    if number % 5 == 1:
        sound = folder / "sound.json"
        sound.write_text(json.dumps(dict.fromkeys(NAMES, "a small red circle")), "utf-8")
        files = [file, sound] if rng.integers(2) else [sound, file]
        code, *_ = command("score", "--references", files[0], "--hypotheses", files[1])
        return f"score {what}: exit code {code}"
    accepted = 0
    for read in (read_references, read_hypotheses, lambda path: list(read_rows(path))):
        try:
            accepted += bool(read(file))
        except CaptionerError as error:
            one_line(error)
    return f"readers {what}: {accepted} of 3 took it"


def one_line(error: CaptionerError) -> None:
    if "\n" in str(error) or len(str(error)) > 10_000:
        raise Wrong(f"not one line of moderate length: {str(error)[:500]!r}")


@functools.cache
def _params() -> tuple[bytes, list[bytes]]:
    text = (ROOT / "params.yaml").read_bytes()
    merged = "a0: &a0 {x: 1}\n" + "".join(
        f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 9)
    )
    laughs = "b0: &b0 [x]\n" + "".join(
        f"b{n}: &b{n} [{', '.join([f'*b{n - 1}'] * 9)}]\n" for n in range(1, 9)
    )
    members = b"members: [" + b"0, " * 300_000 + b"0]"
    whole = text.replace(b"members: [0]", members, 1)
    return text, [
        merged.encode() + text,
        laughs.encode() + text,
        whole,
        text[::-1],
        b"a\n" * 200_000,
    ]


def params(rng: np.random.Generator, number: int, folder: Path) -> str:
    """One params.yaml: read, or a CaptionerError of one line."""
    text, hostile = _params()
    if number < len(hostile):
        data, what = hostile[number], f"hostile {number}"
    else:
        data, what = _mutate(text, rng, hostile[:2])
    file = folder / "params.yaml"
    file.write_bytes(data)
    try:
        load_params(file)
    except CaptionerError as error:
        one_line(error)
        return f"{what}: refused"
    return f"{what}: read"
