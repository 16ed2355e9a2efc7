"""inputs: links to your own pictures and captions, and to ImageNet weights, for DVC to watch."""

from stages import read_params, run_stage  # isort: skip  (puts this checkout's src on the path)

from pathlib import Path

from captioner.inputs import TABLE, WEIGHTS, link_inputs


def main() -> None:
    params = read_params()
    source, backbone = params.download, params.encoder.backbone
    table, weights = {}, {}
    if source.source == "table":
        table = {name: Path(getattr(source, name)) for name in ("captions", "pictures")}
    if backbone not in ("cnn", "course_cnn"):
        # Later, since it takes seconds: the networks trained here from scratch need no TensorFlow.
        import captioner.quiet_tensorflow  # noqa: F401
        from captioner.encoder import fetch_weights

        found = fetch_weights(backbone)
        weights = {found.name: found}
    link_inputs(TABLE, table, folders=("pictures",))
    link_inputs(WEIGHTS, weights)


if __name__ == "__main__":
    run_stage("inputs", main)
