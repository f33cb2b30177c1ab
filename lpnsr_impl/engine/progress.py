"""Progress updates of a run."""

from torch import Tensor

from ..method.sampler import StepCallback


class Progress:
    """Counts finished work. Subclasses show it; an exception raised by them cancels the run.

    Attributes:
        done: work done so far, in calls of the denoiser on an image of the first pass.
        weight: factor for work that is added: pixels of an image in the current pass, relative to
            the first pass.
    """

    done = 0.0
    weight = 1.0

    def begin(self, work: float, heading: str) -> None:
        """Begin a run.

        Args:
            work: total work of the run, in calls of the denoiser on an image of the first pass.
            heading: description of the upscaling passes, "" for a single x4 pass.
        """

    def plan(self, summary: str, details: str) -> None:
        """Receive the tile plan of a stage, as a short text to show and a longer one to log."""

    def note(self, text: str) -> None:
        """Receive a remark about something that may surprise the user."""

    def advance(self, work: float, text: str) -> None:
        """Add finished work, described by `text`."""
        self.done += self.weight * work

    def preview(self, y0: Tensor, lr: Tensor) -> StepCallback | None:
        """Return a callback that previews each sampling step, or None for no previews.

        Args:
            y0: latents that the chain starts from, [B,C,h,w].
            lr: LR images, [B,3,h,w].
        """
        return None
