"""The command line. Each command imports what it needs, so that none needs another's packages."""

import argparse
import io
import logging
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; errors of use are printed without a traceback.

    Returns:
        Exit code.
    """
    parsed = parser().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # arrows of tables, on a terminal without them
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stdout
    )
    try:
        return parsed.run(parsed)
    except ModuleNotFoundError as e:
        logging.error("%s. Install what this command needs: pip install %s", e, parsed.needs)
        return 1
    except (ValueError, OSError, RuntimeError, ArithmeticError) as e:
        logging.error("%s", e)
        return 1


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    whole = argparse.ArgumentParser(prog="python -m lpnsr_impl", description=__doc__)
    commands = whole.add_subparsers(dest="command", required=True)
    _add_train(commands.add_parser("train", help="train a network of a family", description=_TRAIN))
    _add_evaluate(
        commands.add_parser("evaluate", help="measure models on pictures", description=_EVALUATE)
    )
    _add_degrade(commands.add_parser("degrade", help="show the degradation", description=_DEGRADE))
    return whole


_TRAIN = """Train one of the four networks on a folder of pictures. Run the same command again to
go on after a stop. For several processes: accelerate launch -m lpnsr_impl train ..."""


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help="a .toml file, or a shipped one by name: lite-denoiser, ...")
    parser.add_argument("--data", type=Path, required=True, help="folder of HR pictures")
    parser.add_argument("--out", type=Path, required=True, help="folder for weights and state")
    parser.add_argument("--validation", type=Path, help="folder of HR pictures to validate on")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="e.g. steps=50, loss.gan=0.0",
    )
    parser.add_argument("--stop-at", type=int, help="stop early, at this step")
    parser.add_argument("--cpu", action="store_true", help="leave a GPU alone")
    parser.set_defaults(run=_train, needs="accelerate tensorboard pyiqa tomli")


def _train(parsed: argparse.Namespace) -> int:
    from .training.config import read_config
    from .training.trainer import Trainer

    config = read_config(parsed.config, parsed.set)
    trainer = Trainer(config, parsed.data, parsed.out, parsed.validation, cpu=parsed.cpu)
    trainer.run(parsed.stop_at)
    return 0


_EVALUATE = """Upscale a folder of pictures and measure the results. Writes results.csv, table.md,
sheet.jpg and the pictures; run it again to go on after a stop. Without --experiment it measures
bicubic and one preset."""


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--lr", type=Path, required=True, help="folder of LR pictures")
    parser.add_argument("--hr", type=Path, help="folder of HR pictures with the same names")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--autoencoder", default="lpnsr_lite_autoencoder.safetensors")
    parser.add_argument("--denoiser", default="lpnsr_lite_denoiser.safetensors")
    parser.add_argument(
        "--noise-predictor", default="lpnsr_lite_noise_predictor.safetensors", help="or none"
    )
    parser.add_argument(
        "--upscale-model", action="append", default=[], help="start of PreSet-B; more for table6"
    )
    parser.add_argument(
        "--experiment", choices=("table1", "table4", "table6", "noise"), help="of the paper"
    )
    parser.add_argument(
        "--preset",
        choices=("A", "B", "ResShift"),
        help="without it, B if there is an --upscale-model, else A",
    )
    parser.add_argument("--steps", type=int, default=4, choices=(1, 2, 3, 4))
    parser.add_argument(
        "--predictor-off", type=int, nargs="*", default=[], choices=(4, 3, 2), metavar="T",
        help="steps with random noise",
    )  # fmt: skip
    parser.add_argument("--predictor-mode", choices=("sample", "mean"), default="sample")
    parser.add_argument("--color-fix", choices=("wavelet", "adain", "none"), default="wavelet")
    parser.add_argument("--seed", type=int, default=12345)
    parser.add_argument("--device", default="cpu", help="e.g. cuda; metrics stay on the CPU")
    parser.add_argument("--tile", type=int, default=256, help="largest tile, in LR pixels")
    parser.add_argument(
        "--metrics", nargs="+", help="some of PSNR SSIM LPIPS NIQE PI CLIPIQA MUSIQ"
    )
    parser.set_defaults(run=_evaluate, needs="pyiqa matplotlib")


def _evaluate(parsed: argparse.Namespace) -> int:
    from .evaluation.command import run

    print(run(parsed))  # noqa: T201
    return 0


_DEGRADE = """Draw degradations of pictures, with a seed, as a sheet: HR on the left, LR (enlarged
without smoothing) beside it, and what was drawn as text below."""


def _add_degrade(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, help="folder of HR pictures")
    parser.add_argument("--out", type=Path, required=True, help="the sheet, a .png or .jpg file")
    parser.add_argument("--pictures", type=int, default=4)
    parser.add_argument("--draws", type=int, default=5, help="degradations of each picture")
    parser.add_argument("--crop", type=int, default=256, help="HR pixels, a multiple of 4")
    parser.add_argument("--seed", type=int, default=0)
    parser.set_defaults(run=_degrade, needs="Pillow")


def _degrade(parsed: argparse.Namespace) -> int:
    from .degradation.sheet import make_sheet

    sheet = make_sheet(parsed.data, parsed.pictures, parsed.draws, parsed.crop, parsed.seed)
    parsed.out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(parsed.out)
    logging.info("wrote %s", parsed.out)
    return 0
