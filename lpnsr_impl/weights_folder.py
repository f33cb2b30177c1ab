"""Where the weights that come with the pack are."""

from pathlib import Path

BUNDLED = Path(__file__).parent / "weights"
"""Networks of the lite family."""

BUNDLED_UPSCALE_MODELS = Path(__file__).parent / "upscale_models"
"""Start of PreSet-B for the lite family; a folder of its own, as ComfyUI lists it elsewhere."""


def find_weights(name: str) -> Path:
    """Path of a file that is named by its path, or by its name among the bundled ones.

    Raises:
        FileNotFoundError: there is no such file.
    """
    for path in (Path(name), BUNDLED / name, BUNDLED_UPSCALE_MODELS / name):
        if path.is_file():
            return path
    bundled = sorted(
        p.name for f in (BUNDLED, BUNDLED_UPSCALE_MODELS) for p in f.glob("*.safetensors")
    )
    raise FileNotFoundError(
        f"There is no file {name!r}: give its path, or the name of a bundled one: "
        f"{', '.join(bundled)}."
    )
