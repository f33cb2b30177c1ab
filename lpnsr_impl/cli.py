"""Command line of LPNSR. Each command requires only the packages that it uses."""

import argparse
import io
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from .files.folders import BUNDLED, BUNDLED_UPSCALE_MODELS
from .files.released import CHOICES, FolderKind
from .version import PACK

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Expected errors are printed without a traceback unless --verbose is given.

    Returns:
        The exit code.
    """
    parsed = parser().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Some terminals can't print all characters, such as the arrows in tables.
        sys.stdout.reconfigure(errors="replace")
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stdout
    )
    logging.getLogger(__package__).setLevel(logging.DEBUG if parsed.verbose else logging.INFO)
    try:
        return parsed.run(parsed)
    except ModuleNotFoundError as e:
        logger.error(
            "%s. Install the packages that this command needs: pip install %s", e, parsed.needs
        )
        logger.debug("", exc_info=True)
        return 1
    except (ValueError, OSError, RuntimeError, ArithmeticError) as e:
        logger.error("%s", e)
        logger.debug("", exc_info=True)
        return 1


def parser() -> argparse.ArgumentParser:
    """Build the parser of all commands and their options."""
    root = argparse.ArgumentParser(prog="python -m lpnsr_impl", description=__doc__)
    commands = root.add_subparsers(dest="command", required=True)
    for run, add_options, summary in (
        (_train, _add_train, "train networks"),
        (_evaluate, _add_evaluate, "measure models on pictures"),
        (_degrade, _add_degrade, "show examples of the degradation"),
        (_download, _add_download, "download released model files"),
        (_convert, _add_convert, "convert a .pth file to safetensors"),
        (_blend, _add_blend, "average the weights of two trained versions of a network"),
        (_doctor, _add_doctor, "report versions, files and problems"),
        (_upscale, _add_upscale, "upscale files and folders"),
    ):
        command = commands.add_parser(
            run.__name__.removeprefix("_"), help=summary, description=run.__doc__
        )
        command.set_defaults(run=run, needs="torch -r requirements.txt")
        command.add_argument(
            "--verbose", action="store_true", help="log debug messages and tracebacks of errors"
        )
        add_options(command)
    return root


def _add_models(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--autoencoder", default="lpnsr_lite_autoencoder.safetensors")
    parser.add_argument("--denoiser", default="lpnsr_lite_denoiser.safetensors")
    parser.add_argument(
        "--noise-predictor",
        default="lpnsr_lite_noise_predictor.safetensors",
        help="file of a noise predictor, or none",
    )


def _add_method(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--preset",
        choices=("A", "B", "ResShift"),
        help="default: B if there is an upscale model, else A",
    )
    parser.add_argument(
        "--steps",
        type=int,
        default=4,
        choices=range(1, 16),
        metavar="T",
        help="number of sampling steps, at most those of the denoiser (4 or 15); ignored for "
        "one-step students (SinSR, RSD)",
    )
    parser.add_argument(
        "--predictor-off", type=int, nargs="*", default=[], choices=(4, 3, 2), metavar="T",
        help="steps t that use random noise instead of the noise predictor",
    )  # fmt: skip
    parser.add_argument("--predictor-mode", choices=("sample", "mean"), default="sample")
    parser.add_argument("--color-fix", choices=("wavelet", "adain", "none"), default="wavelet")
    parser.add_argument("--seed", type=int, default=12345)
    parser.add_argument(
        "--tile", type=int, default=256, help="maximum width and height of a tile, in LR pixels"
    )


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "config",
        nargs="+",
        help="path of a .toml file, or name of a shipped config, such as lite-denoiser; several "
        "configs are trained one after another",
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of HR pictures")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for weights and training state"
    )
    parser.add_argument("--validation", type=Path, help="folder of HR pictures to validate on")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a setting of the config, e.g. steps=50 or loss.gan=0.0",
    )
    parser.add_argument("--stop-at", type=int, metavar="STEP", help="stop early, after this step")
    parser.add_argument("--cpu", action="store_true", help="use the CPU even if there is a GPU")
    parser.set_defaults(needs="accelerate tensorboard pyiqa pydantic scipy tomli")


def _train(parsed: argparse.Namespace) -> int:
    """Train networks on a folder of pictures. Run the same command again to resume after an
    interruption. For several processes: accelerate launch -m lpnsr_impl train ..."""
    from .jobs.training.config import read_config
    from .jobs.training.stages import train_stages
    from .jobs.training.trainer import Trainer

    if len(parsed.config) > 1:
        if parsed.stop_at:
            raise ValueError(
                "--stop-at works with one config only. Leave out --stop-at, or give one config."
            )
        train_stages(
            parsed.config, parsed.set, parsed.data, parsed.out, parsed.validation, cpu=parsed.cpu
        )
        return 0
    config = read_config(parsed.config[0], parsed.set)
    trainer = Trainer(config, parsed.data, parsed.out, parsed.validation, cpu=parsed.cpu)
    trainer.run(parsed.stop_at)
    return 0


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--lr", type=Path, required=True, help="folder of LR pictures")
    parser.add_argument("--hr", type=Path, help="folder of HR pictures with the same names")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    _add_models(parser)
    parser.add_argument(
        "--upscale-model",
        action="append",
        default=[],
        help="upscale model that PreSet-B starts from; repeat the option for table6",
    )
    parser.add_argument(
        "--experiment",
        choices=("table1", "table4", "table6", "noise"),
        help="experiment of the paper to run; noise draws Figures 2 and 4",
    )
    _add_method(parser)
    parser.add_argument("--device", default="cpu", help="e.g. cuda; metrics stay on the CPU")
    parser.add_argument(
        "--metrics",
        nargs="+",
        help="some of PSNR SSIM LPIPS NIQE PI CLIPIQA MUSIQ; default: all",
    )
    parser.set_defaults(needs="pyiqa matplotlib")


def _evaluate(parsed: argparse.Namespace) -> int:
    """Upscale a folder of pictures and measure the results. Writes results.csv, table.md,
    sheet.jpg and the pictures. Run the same command again to continue after an interruption.
    Without --experiment, bicubic interpolation and one preset are measured."""
    from .jobs.evaluation.command import run

    print(run(parsed))  # noqa: T201
    return 0


def _add_degrade(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, help="folder of HR pictures")
    parser.add_argument(
        "--out", type=Path, required=True, help="sheet to write, a .png or .jpg file"
    )
    parser.add_argument("--pictures", type=int, default=4, help="number of pictures")
    parser.add_argument("--draws", type=int, default=5, help="number of degradations per picture")
    parser.add_argument(
        "--crop", type=int, default=256, help="size of the crops in HR pixels, a multiple of 4"
    )
    parser.add_argument(
        "--mild", type=float, default=0.0, help="probability of a mild degradation, 0 to 1"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.set_defaults(needs="Pillow")


def _degrade(parsed: argparse.Namespace) -> int:
    """Degrade pictures at random, and write a sheet that compares them. Each row has an HR picture
    and its LR versions (nearest-neighbour upsampled), with the parameters of each degradation."""
    from .jobs.degradation.sheet import make_sheet

    sheet = make_sheet(
        parsed.data, parsed.pictures, parsed.draws, parsed.crop, parsed.seed, parsed.mild
    )
    parsed.out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(parsed.out)
    logger.info("wrote %s", parsed.out)
    return 0


def _add_download(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what",
        nargs="?",
        choices=CHOICES,
        default=next(iter(CHOICES)),
        help="preset or file to download",
    )
    _add_folders(parser)
    parser.add_argument(
        "--accept-licences", action="store_true", help="accept the non-commercial licences"
    )


def _add_folders(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--folder", type=Path, help="folder of LPNSR networks; default: ComfyUI's models/lpnsr"
    )
    parser.add_argument(
        "--upscale-models-folder",
        type=Path,
        help="folder of upscale models; default: ComfyUI's models/upscale_models",
    )


def _find_folders(parsed: argparse.Namespace) -> dict[FolderKind, list[Path]]:
    """Map each kind of model to a list with its folder: the one given as an option or, by default,
    that of the ComfyUI installation that contains this pack. The list is empty if there is none."""
    folders: dict[FolderKind, Path | None] = {
        "lpnsr": parsed.folder,
        "upscale_models": parsed.upscale_models_folder,
    }
    models = PACK.parent.parent / "models"
    # A custom_nodes folder that several installations share has no models folder next to it.
    if PACK.parent.name == "custom_nodes" and models.is_dir():
        folders = {kind: folder or models / kind for kind, folder in folders.items()}
    return {kind: [folder] if folder else [] for kind, folder in folders.items()}


def _download(parsed: argparse.Namespace) -> int:
    """Download released model files, by default into the models folder of the ComfyUI installation
    that contains this pack. Existing files are skipped."""
    from .files.download import download, require_consent

    files = CHOICES[parsed.what]
    folders = _find_folders(parsed)
    for file in files:
        if not folders[file.folder]:
            option = "--folder" if file.folder == "lpnsr" else "--upscale-models-folder"
            raise ValueError(
                f"This pack is not installed in ComfyUI. Give a folder for {file.name} as {option}."
            )
    require_consent(files, parsed.accept_licences)
    download(files, folders)
    return 0


def _add_convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="IN")
    parser.add_argument("target", type=Path, metavar="OUT", help="a .safetensors file")


def _convert(parsed: argparse.Namespace) -> int:
    """Convert the model file (.pth or .safetensors) of a supported network to a safetensors file
    whose header describes the network. Existing files are not overwritten."""
    from .files.convert import convert

    header = convert(parsed.source, parsed.target)
    family = header.get("lpnsr.family", "no known family")
    logger.info("wrote %s: %s of %s", parsed.target, header["lpnsr.part"], family)
    return 0


def _add_blend(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("first", type=Path, metavar="FIRST")
    parser.add_argument("second", type=Path, metavar="SECOND")
    parser.add_argument("target", type=Path, metavar="OUT", help="a .safetensors file")
    parser.add_argument("--share", type=float, default=0.5, help="weight of SECOND, 0 to 1")


def _blend(parsed: argparse.Namespace) -> int:
    """Average the weights of two trained versions of a network, such as those before and after
    training with a GAN. Existing files are not overwritten."""
    from .files.blend import blend

    header = blend(parsed.first, parsed.second, parsed.share, parsed.target)
    logger.info("wrote %s: %s", parsed.target, header.get("lpnsr.part", "a network"))
    return 0


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    _add_folders(parser)
    parser.add_argument("--sha256", action="store_true", help="compute the SHA-256 of each file")


def _doctor(parsed: argparse.Namespace) -> int:
    """Report versions, devices, model files and problems as text that can be pasted into an issue.
    Run this with the Python that runs ComfyUI."""
    from .files.doctor import report

    folders = _find_folders(parsed)
    folders["lpnsr"].append(BUNDLED)
    folders["upscale_models"].append(BUNDLED_UPSCALE_MODELS)
    print(report(folders, sha256=parsed.sha256))  # noqa: T201
    return 0


def _add_upscale(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="IN", help="a picture or a folder")
    parser.add_argument("out", metavar="OUT", help="a file (for one picture) or a folder")
    parser.add_argument(
        "--format",
        choices=("same", "png", "jpg", "webp", "avif", "tif"),
        default="same",
        help="format of the results; same: the input's, or png if that can't store the result",
    )
    _add_models(parser)
    parser.add_argument(
        "--upscale-model",
        help="upscale model that PreSet-B starts from; default: the bundled one, for lite networks",
    )
    _add_method(parser)
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--factor", type=float, default=4.0, help="scale factor, 1 to 16; above 4 in two passes"
    )
    size.add_argument(
        "--longest-side",
        type=int,
        default=0,
        metavar="PIXELS",
        help="longest side of each result, 1 to 16 times that of its input",
    )
    parser.add_argument(
        "--wrap",
        choices=("none", "x", "y", "both"),
        default="none",
        help="axes along which pictures are periodic: x for 360-degree panoramas, both for "
        "seamless textures",
    )
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--device", help="e.g. cpu; default: cuda if available, else cpu")
    parser.add_argument(
        "--torch-compile",
        action="store_true",
        help="compile the networks for a GPU, which takes minutes for each new tile size",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="make all results again, and replace files that this command did not make",
    )
    parser.add_argument(
        "--strip-metadata", action="store_true", help="leave out EXIF, XMP, IPTC and PNG text"
    )
    parser.add_argument("--dry-run", action="store_true", help="only log what would be made")
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="run on the Ray cluster at this address, e.g. auto; local starts one on this machine",
    )
    parser.add_argument(
        "--ray-workers",
        type=int,
        metavar="N",
        help="number of workers; default: one per GPU or, without GPUs, one per CPU core",
    )
    parser.set_defaults(needs="Pillow 'pyvips[binary]', and 'ray[data]' for --ray")


def _upscale(parsed: argparse.Namespace) -> int:
    """Upscale a picture, or all pictures in a folder and its subfolders, by a factor or to a size.
    Run the same command again to continue after an interruption: finished pictures are skipped,
    and changed pictures are upscaled again. With pyarrow, IN and OUT may be URIs (s3://, gs://)."""
    from .jobs.upscale.command import run

    return run(parsed)
