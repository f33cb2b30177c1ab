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
        """Receive the total work of a run, and a description of its passes ("" for plain x4)."""

    def plan(self, summary: str, details: str) -> None:
        """Receive the tile plan of a stage: a short text to show, and a longer one to log."""

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
