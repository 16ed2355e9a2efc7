"""What deserves a look before hours are spent on training: one line each, with the remedy."""

from collections.abc import Iterator

from captioner.sections import Preprocess, Tokenize

# Below these shares a flaw is normal in captions and pictures from people.
RARE = 0.01  # of pictures or captions
REPEATED = 0.05  # of the captions are one and the same
KNOWN_CAPTIONS = 0.5  # of the test captions are training captions, too
UNKNOWN = 0.1  # of the tokens of val or test are <unk>
WITHOUT_VECTOR = 0.2  # of the training tokens
SEVERAL_SCRIPTS = 0.01  # of the letters are of a script without blanks

SPLIT_BY_CHARACTERS = ("Han", "Hiragana", "Katakana")
NO_BLANKS = ("Thai", "Lao", "Khmer", "Myanmar", "Tibetan")


def warnings(report: dict, preprocess: Preprocess, tokenize: Tokenize) -> list[str]:
    """The warnings about a report of `captioner.inspection.inspect`."""
    captions = sum(report["captions"].values())
    if not captions:
        return []  # there is an error, and nothing to look at
    return [
        *_pictures(report, preprocess),
        *_twice(report, preprocess),
        *_captions(report, tokenize, captions),
        *_words(report, tokenize),
        *_characters(report["characters"], tokenize, captions),
    ]


def _pictures(report: dict, preprocess: Preprocess) -> Iterator[str]:
    kinds = [kind for kind in ("pictures", "captions") if report[f"rejected_{kind}"]]
    if kinds:
        numbers = " and ".join(f"{report[f'rejected_{kind}']:,} {kind}" for kind in kinds)
        yield f"rejected: {numbers} cannot be used; rejected.csv says why, mend or remove them"
    number = sum(report["pictures"].values())
    sizes = report["sizes"]
    if sizes["enlarged_twice"]["number"] > RARE * number:
        yield (
            f"small: {_some(sizes['enlarged_twice'])} would be enlarged more than twice; find "
            f"larger ones, or make preprocess.side ({preprocess.side}) smaller"
        )
    if sizes["elongated"]["number"] > RARE * number:
        harm = {"squash": "distorted", "crop": "cut to less than half", "pad": "mostly bars"}
        others = [fit for fit in harm if fit != preprocess.fit]
        yield (
            f"long: {_some(sizes['elongated'])} are longer than 2:1 and would be "
            f"{harm[preprocess.fit]}; cut them, or try preprocess.fit {' or '.join(others)}"
        )


def _twice(report: dict, preprocess: Preprocess) -> Iterator[str]:
    number = sum(report["pictures"].values())
    copies = report["copies"]
    if sum(copies.values()) > RARE * number:
        yield (
            f"duplicates: {sum(copies.values()):,} pictures of the same bytes as another of their "
            f"split ({copies['same bytes']:,}) or the same looks ({copies['looks the same']:,}); "
            "see duplicates.csv, then remove them or give one picture all the captions"
        )
    pairs = report["leaks"]["pairs"]
    if pairs["looks the same"] or (preprocess.allow_leaks and pairs["same bytes"]):
        yield (
            f"leaks: of pairs of pictures in two splits {pairs['same bytes']:,} have the same "
            f"bytes and {pairs['looks the same']:,} look the same; see leaks.csv, then move each "
            "pair into one split (dataset table: group_column)"
        )
    share = report["leaks"]["leaked_captions_test_share"]
    if share > KNOWN_CAPTIONS:
        yield (
            f"test captions: {share:.0%} are training captions, too, word for word; high scores "
            "will not show that a model writes anything new"
        )


def _captions(report: dict, tokenize: Tokenize, captions: int) -> Iterator[str]:
    words = report["words"]
    if words["cut"] > RARE * captions:
        yield (
            f"long captions: {words['cut']:,} ({words['cut'] / captions:.1%}) have more than "
            f"{tokenize.max_length} words and would be cut; the longest has {words['longest']:,}; "
            "make tokenize.max_length larger"
        )
    if words["most_frequent"]:
        caption, number = words["most_frequent"][0]
        # Of a handful of captions any one is a large share.
        if number > 2 and number > REPEATED * captions:
            yield (
                f"repeated: {number / captions:.0%} of the captions are {caption!r:.80}; a model "
                "that always says it scores well; write captions that tell pictures apart"
            )


def _words(report: dict, tokenize: Tokenize) -> Iterator[str]:
    for split in ("val", "test"):
        share = report["vocabulary"].get(f"unknown_tokens_{split}", 0)
        if share > UNKNOWN:
            yield (
                f"unknown words: {share:.1%} of the words in the {split} captions become <unk>; "
                f"make tokenize.min_count ({tokenize.min_count}) smaller, or find more captions"
            )
    tokens = report["word_vectors"].get("tokens", 1)
    if tokens < 1 - WITHOUT_VECTOR:
        yield (
            f"word vectors: {1 - tokens:.1%} of the training words have none; for other languages "
            "than English write glove.source: train"
        )


def _characters(found: dict, tokenize: Tokenize, captions: int) -> Iterator[str]:
    scripts = found["scripts"]
    some = SEVERAL_SCRIPTS * sum(scripts.values())

    def many(names: tuple[str, ...]) -> list[str]:
        return [name for name in names if scripts.get(name, 0) > some]

    if not tokenize.split_characters and many(SPLIT_BY_CHARACTERS):
        yield (
            f"script: {', '.join(many(SPLIT_BY_CHARACTERS))} without blanks between words: a whole "
            "clause would be one word; write tokenize.split_characters: true"
        )
    if many(NO_BLANKS):
        yield (
            f"script: {', '.join(many(NO_BLANKS))} without blanks between words: a whole clause "
            "would be one word; put blanks between the words"
        )
    if found["captions_with_lost"] > RARE * captions:
        lost = ", ".join(f"{character} ({number:,})" for character, number in found["lost"])
        yield (
            f"lost characters: the tokenizer drops or replaces some in "
            f"{found['captions_with_lost']:,} captions: {lost}; write words instead"
        )
    remedies = {
        "control characters": "remove them",
        "replacement characters": "a program could not read what was there; take the original text",
        "placeholders": "programs write such words for a missing caption; leave these rows out",
        "mojibake": "UTF-8 was read as another encoding; save the table as UTF-8 anew",
    }
    for kind, odd in found["odd"].items():
        if odd["captions"]:
            yield (
                f"{kind}: in {odd['captions']:,} captions, for example {odd['example']!r:.80}; "
                f"{remedies[kind]}"
            )


def _some(which: dict) -> str:
    named = ", ".join(f"{image_id:.80}" for image_id in which["first"][:3])
    more = ", ..." if which["number"] > 3 else ""
    return f"{which['number']:,} pictures ({named}{more})"
