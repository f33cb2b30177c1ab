"""LPNSRDoctor: creates a report to paste into an issue."""

from typing import Any

from comfy_api.latest import io, ui

from ..lpnsr_impl.files.doctor import report
from . import host
from .schema import schema


class LPNSRDoctor(io.ComfyNode):
    """Reports versions, devices, model files and problems."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LPNSRDoctor",
            display_name="LPNSR Doctor",
            description="Reports versions, devices, model files and problems with their "
            "solutions, as text to paste into an issue.",
            search_aliases=["report", "diagnose", "debug", "versions"],
            inputs=[
                io.Boolean.Input(
                    "sha256",
                    default=False,
                    tooltip="Compute the SHA-256 of every file and compare it with the published "
                    "one. Takes about a second per gigabyte.",
                ),
            ],
            outputs=[
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="The report as text. Your user name is hidden: the home directory is "
                    "shown as ~.",
                )
            ],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> float:
        return float("nan")  # NaN is unequal to itself, so the node is never cached

    @classmethod
    def execute(cls, sha256: bool) -> io.NodeOutput:
        bar = host.Progress()
        text = report(
            host.all_folders(),
            host.environment(),
            sha256=sha256,
            progress=lambda _name, done, total: bar.at(done, total or 1),
        )
        return io.NodeOutput(text, ui=ui.PreviewText(text))
