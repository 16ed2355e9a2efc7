"""Draw train, val and test by lot, so that what belongs together stays together.

Each unit (a picture with its copies, or a group of pictures) has a place of its own in a queue: the
hash of the seed and its name. The first in it fill val, the next test, and the rest is train. So
neither the order of the pictures nor their captions matter. Where all units are single pictures,
one more of them moves at most three others to another split: those at the cuts.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping

from captioner import CaptionerError
from captioner.datasets import SPLITS


def draw_splits(units: Mapping[str, str], val: float, test: float, seed: int) -> dict[str, str]:
    """Give each picture the split of its unit.

    Args:
        units: picture -> unit.
        val, test: shares of the pictures (0 to 1). A split misses its share by half the largest
            unit at most: a unit that would overshoot by more than half of itself is passed over,
            in the end to train. A split left empty is then given a small unit of another.
        seed: another one draws other splits.

    Returns:
        picture -> one of `SPLITS`. With three units or more no split is empty.

    Raises:
        CaptionerError: the shares leave nothing for train.
    """
    if val + test >= 1:
        raise CaptionerError(f"val {val:g} and test {test:g} leave nothing for train; lower them")
    sizes = Counter(units.values())
    queue = sorted(sizes, key=lambda unit: hashlib.sha256(f"{seed}\0{unit}".encode()).digest())
    shares = {"val": val * len(units), "test": test * len(units)}
    held: dict[str, list[str]] = {split: [] for split in SPLITS}
    for unit in queue:
        filling = (split for split in shares if sizes[unit] / 2 <= shares[split])
        split = next(filling, "train")
        held[split].append(unit)
        if split in shares:
            shares[split] -= sizes[unit]
    for split in SPLITS:
        donor = max(SPLITS, key=lambda name: len(held[name]))
        if not held[split] and len(held[donor]) > 1:
            unit = min(held[donor], key=sizes.__getitem__)
            held[donor].remove(unit)
            held[split].append(unit)
    splits = {unit: split for split in SPLITS for unit in held[split]}
    return {picture: splits[unit] for picture, unit in units.items()}
