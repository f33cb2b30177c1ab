"""LPNSRDownloadModels: downloads released files when the user runs the node."""

from typing import Any

from comfy_api.latest import io, ui

from ..lpnsr_impl.files.download import download, find, require_consent
from ..lpnsr_impl.files.released import CHOICES, MIT, RELEASED
from . import host
from .schema import schema

_LICENCES = "; ".join(
    f"{', '.join(file.name for file in RELEASED if file.licence.name == licence)}: {licence}"
    for licence in dict.fromkeys(file.licence.name for file in RELEASED if file.licence != MIT)
)


class LPNSRDownloadModels(io.ComfyNode):
    """Downloads missing files, each into the first model folder of its kind."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LPNSRDownloadModels",
            display_name="LPNSR Download Models",
            description="Downloads the missing released files of a preset into models/lpnsr and "
            "models/upscale_models. Press R afterwards, so that the loader nodes list the files.",
            search_aliases=["get models", "weights", "checkpoints"],
            inputs=[
                io.Combo.Input(
                    "files",
                    options=list(CHOICES),
                    default="PreSet-B",
                    tooltip="All files of a preset or of a one-step student (SinSR, RSD), or a "
                    "single file. PreSet-A and PreSet-B have different noise predictors, and only "
                    "PreSet-B has an upscale model. ResShift has neither.",
                ),
                io.Boolean.Input(
                    "accept_licences",
                    default=False,
                    tooltip="Confirm that you have read the licences of the files and agree to "
                    f"them. {_LICENCES}; noise predictors: MIT.",
                ),
            ],
            outputs=[
                io.String.Output(
                    "report", display_name="report", tooltip="The result, one line for each file."
                )
            ],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, files: str | None) -> bool | str:
        return True if files is None or files in CHOICES else _unknown(files)

    @classmethod
    def fingerprint_inputs(cls, files: str | None, **_: Any) -> list[str]:
        """Return a value that changes when a file is deleted, so that the node runs again."""
        folders = host.users_folders()
        paths = [find(file, folders[file.folder]) for file in CHOICES.get(files or "", RELEASED)]
        return [str(path) for path in paths]

    @classmethod
    def execute(cls, files: str, accept_licences: bool) -> io.NodeOutput:
        if files not in CHOICES:
            raise ValueError(_unknown(files))
        wanted = CHOICES[files]
        require_consent(wanted, accept_licences)
        bar = host.Progress()

        def progress(name: str, done: int, total: int | None) -> None:
            bar.at(done if total else 0, total or 1)
            of = f" of {total / 1e6:.1f}" if total else ""
            bar.say(f"{name}\n{done / 1e6:.1f}{of} MB")

        report = download(wanted, host.users_folders(), progress)
        return io.NodeOutput(report, ui=ui.PreviewText(report))


def _unknown(files: str) -> str:
    return f"files: {files!r} is unknown, choose one of: {', '.join(CHOICES)}"
