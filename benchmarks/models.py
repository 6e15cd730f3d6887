"""The checkpoints that benchmarks measure: those named by --model, or those that are shipped."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

MODELS = tuple(Path(f"./out/{name}.tar") for name in ("main", "hyperprior", "visual"))


def add_model_argument(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        type=Path,
        action="append",
        help="checkpoint of our codecs, may be repeated (default: those that exist of "
        f"{', '.join(map(str, MODELS))})",
    )


def chosen_models(args: Namespace) -> list[Path]:
    return args.model or [model for model in MODELS if model.is_file()]
