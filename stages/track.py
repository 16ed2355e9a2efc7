"""track: reports and model -> one complete MLflow run of the present state; prints the summary."""

from stages import read_params, run_stage  # isort: skip  (puts this checkout's src on the path)

from pathlib import Path

from captioner import tracking
from captioner.files import read_json

MEASURES = {
    "truthful": "Truthful",
    "bleu_4": "BLEU-4",
    "rouge_l": "ROUGE-L",
    "cider_d": "CIDEr-D",
    "meteor": "METEOR",
    "spice": "SPICE",
}


def main() -> None:
    params = read_params()
    run = tracking.track(Path.cwd(), params.model_dump())
    scores = read_json("reports/evaluate/metrics.json")

    print(f"\n{params.dataset}, test pictures   score  95% interval    floor nearest ceiling")
    for key, name in MEASURES.items():
        if key in scores:
            low, high = scores[f"{key}_low"], scores[f"{key}_high"]
            others = [scores.get(prefix + key) for prefix in ("floor_", "nearest_", "ceiling_")]
            cells = "".join(f"{'-':>8}" if value is None else f"{value:8.3f}" for value in others)
            print(f"  {name:17}{scores[key]:8.3f}  {low:.3f} - {high:.3f}{cells}")
    print(
        "  floor: the best single sentence for all pictures; nearest: a caption of the most\n"
        "  similar training picture; ceiling: a person's captions scored against the others'\n"
        "\nPictures and captions    reports/evaluate/gallery.png, all of them: captions.html"
        f"\nThis run in MLflow       {run.name}{'' if run.new else ' (recorded earlier)'}"
        f"\nAll runs                 {run.viewer}"
        "\nCaption your pictures    captioner caption PICTURE_OR_FOLDER"
        "\nTry something else       dvc exp run -S train.units=512\n"
    )


if __name__ == "__main__":
    run_stage("track", main)
