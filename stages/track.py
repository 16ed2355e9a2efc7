"""track: reports and model -> one complete MLflow run of the present state; prints the summary."""

from stages import run_stage  # isort: skip  (puts this checkout's src on the path)

from pathlib import Path

from captioner import tracking
from captioner.files import read_json
from captioner.params import load_params

MEASURES = {"truthful": "Truthful", "bleu_4": "BLEU-4", "rouge_l": "ROUGE-L", "cider_d": "CIDEr-D"}


def main() -> None:
    params = load_params()
    run = tracking.track(Path.cwd(), params.model_dump())
    scores = read_json("reports/evaluate/metrics.json")

    print(f"\n{params.dataset}, test pictures      score   floor ceiling")
    for key, name in MEASURES.items():
        if key in scores:
            cells = [scores.get(prefix + key) for prefix in ("", "floor_", "ceiling_")]
            row = "".join(f"{'-':>8}" if cell is None else f"{cell:8.3f}" for cell in cells)
            print(f"  {name:20}{row}")
    print(
        "  floor: the best single sentence for all pictures;"
        " ceiling: a person's captions\n"
        "\nPictures and captions    reports/evaluate/gallery.png"
        f"\nThis run in MLflow       {run.name}{'' if run.new else ' (recorded earlier)'}"
        f"\nAll runs                 {run.viewer}"
        "\nCaption your pictures    captioner caption PICTURE_OR_FOLDER"
        "\nTry something else       dvc exp run -S train.units=512\n"
    )


if __name__ == "__main__":
    run_stage("track", main)
