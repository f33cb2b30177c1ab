"""Progress of a run, as the engine reports it."""

from torch import Tensor

from ..method.sampler import StepCallback


class Progress:
    """Counts the work that is done. Subclasses show it; an exception of theirs ends the run.

    Attributes:
        done: work done so far, in calls of the denoiser on an image of the first pass.
        weight: factor for the work that `advance` adds: an image's pixels relative to the first
            pass.
    """

    done = 0.0
    weight = 1.0

    def begin(self, work: float, heading: str) -> None:
        """Announce a run: its work, and a description of its passes, or "" for a plain x4."""

    def plan(self, summary: str, details: str) -> None:
        """Announce the tiles of a stage: a short text to show, and a longer one to log."""

    def note(self, text: str) -> None:
        """Announce something that the user may not expect."""

    def advance(self, work: float, text: str) -> None:
        """Add finished work; `text` says what it was."""
        self.done += self.weight * work

    def preview(self, y0: Tensor, lr: Tensor) -> StepCallback | None:
        """Make a callback that previews the chain from y0, [B,C,h,w], for lr, [B,3,h,w]."""
        return None
