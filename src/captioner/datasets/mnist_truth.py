"""Whether a caption names the digit that is written."""

from captioner.metrics.tokenizer import tokenize

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def truthful(caption: str, facts: dict) -> bool:
    """Whether the caption names the right digit, as word or numeral, and no other number."""
    numbers = {word: str(digit) for digit, word in enumerate(WORDS)}
    tokens = tokenize(caption)
    named = {numbers.get(token, token) for token in tokens if token in numbers or token.isdigit()}
    return named == {facts["digit"]}
