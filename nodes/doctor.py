"""LPNSRDoctor: a report for issues."""

from typing import Any

from comfy_api.latest import io, ui

from ..lpnsr_impl.files.doctor import report
from . import host, host_api
from .schema import schema


class LPNSRDoctor(io.ComfyNode):
    """Looks at versions, devices and files, and says what is wrong."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LPNSRDoctor",
            display_name="LPNSR Doctor",
            description="Reports versions, devices and model files, what is wrong with them and "
            "what to do, as text for an issue.",
            search_aliases=["report", "diagnose", "debug", "versions"],
            inputs=[
                io.Boolean.Input(
                    "sha256",
                    default=False,
                    tooltip="Compute the SHA-256 of every file and compare it with that of its "
                    "download. Takes a second or so for each gigabyte.",
                ),
            ],
            outputs=[
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="Text without your user name: the home directory is shown as ~.",
                )
            ],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> float:
        return float("nan")  # differs from itself: what is looked at may have changed

    @classmethod
    def execute(cls, sha256: bool) -> io.NodeOutput:
        bar = host.Progress()
        text = report(
            host.all_folders(),
            host.environment(),
            host_api.problems(),
            sha256=sha256,
            progress=lambda _name, done, total: bar.at(done, total or 1),
        )
        return io.NodeOutput(text, ui=ui.PreviewText(text))
