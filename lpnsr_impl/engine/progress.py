"""What the engine tells of a run while it runs."""

from dataclasses import dataclass

from torch import Tensor

from ..method.sampler import StepCallback


@dataclass(frozen=True)
class Call:
    """One call of a network on whole pictures, and its cost.

    work: for one picture, in calls of the denoiser.
    """

    text: str
    work: float = 1.0


class Progress:
    """Nobody is told. Others take over what they show; what they raise ends the run.

    Attributes:
        done: work done so far.
        weight: of the work that `advance` counts: more where pictures are larger.
    """

    done = 0.0
    weight = 1.0

    def begin(self, work: float, heading: str) -> None:
        """A run of so much work begins; `heading` says of what passes, if not of x4."""

    def plan(self, text: str) -> None:
        """Networks are being loaded for this plan."""

    def advance(self, work: float, text: str) -> None:
        """So much work is done."""
        self.done += self.weight * work

    def watch(self, y0: Tensor, lr: Tensor) -> StepCallback | None:
        """What is called after each step of a chain from y0, [B,C,H,W], by lr, [B,3,h,w]."""
        return None
