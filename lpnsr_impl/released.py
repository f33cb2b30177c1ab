"""The released model files: the one table that downloads, doctor, README and workflows agree with.

Where this pack is built there is no Internet beside PyPI, so no address here was ever opened.
"""

import os
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote

GITHUB = "https://github.com"
MIRROR_VARIABLE = "LPNSR_DOWNLOAD_MIRROR"
"""Environment variable with what stands in place of `GITHUB`; Hugging Face has its HF_ENDPOINT."""

FolderKind = Literal["lpnsr", "upscale_models"]


@dataclass(frozen=True)
class Licence:
    """What a file may be used for."""

    name: str
    url: str
    commercial: bool = True


S_LAB = Licence(
    "S-Lab, non-commercial", f"{GITHUB}/zsyOAOA/ResShift/blob/master/LICENSE", commercial=False
)
MIT = Licence("MIT", f"{GITHUB}/Faze-Hsw/LPNSR")
APACHE = Licence("Apache-2.0", f"{GITHUB}/JingyunLiang/SwinIR/blob/main/LICENSE")


@dataclass(frozen=True)
class GitHubAsset:
    """A file of a release on GitHub; `release` is a tag, or None for the latest one."""

    repository: str
    release: str | None
    name: str

    @property
    def page(self) -> str:
        """For people."""
        tag = f"tag/{self.release}" if self.release else "latest"
        return f"{GITHUB}/{self.repository}/releases/{tag}"

    @property
    def url(self) -> str:
        """Of the file, on the mirror if one is set."""
        tag = f"download/{self.release}" if self.release else "latest/download"
        host = (os.environ.get(MIRROR_VARIABLE) or GITHUB).rstrip("/")
        return f"{host}/{self.repository}/releases/{tag}/{quote(self.name)}"


@dataclass(frozen=True)
class HubFile:
    """A file of a model repository on Hugging Face."""

    repository: str
    name: str

    @property
    def page(self) -> str:
        """For people."""
        return f"https://huggingface.co/{self.repository}"

    @property
    def url(self) -> str:
        """Of the file, at HF_ENDPOINT if that is set."""
        from huggingface_hub import hf_hub_url

        # The library reads HF_ENDPOINT only once, when it is imported.
        endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or None
        return hf_hub_url(self.repository, self.name, endpoint=endpoint)


@dataclass(frozen=True)
class ReleasedFile:
    """A file that others have published. It is kept as `name`, whatever a source calls it."""

    name: str
    folder: FolderKind
    part: str
    purpose: str
    licence: Licence
    sources: tuple[HubFile | GitHubAsset, ...]  # in the order to try

    @property
    def names(self) -> tuple[str, ...]:
        """All names the file may have on a user's disk, `name` first."""
        return tuple(dict.fromkeys((self.name, *(source.name for source in self.sources))))


def _predictor(name: str, purpose: str, *other_names: str) -> ReleasedFile:
    names = (name, *other_names)
    return ReleasedFile(
        name,
        "lpnsr",
        "noise_predictor",
        purpose,
        MIT,
        (
            *(HubFile("mirpri/LPNSR", n) for n in names),
            *(GitHubAsset("Faze-Hsw/LPNSR", None, n) for n in names),
        ),
    )


AUTOENCODER = ReleasedFile(
    "autoencoder_vq_f4.pth",
    "lpnsr",
    "autoencoder",
    "autoencoder between images and latents",
    S_LAB,
    (GitHubAsset("zsyOAOA/ResShift", "v2.0", "autoencoder_vq_f4.pth"),),
)
DENOISER = ReleasedFile(
    "resshift_realsrx4_s4_v3.pth",
    "lpnsr",
    "denoiser",
    "ResShift's denoiser, 4 steps",
    S_LAB,
    (GitHubAsset("zsyOAOA/ResShift", "v2.0", "resshift_realsrx4_s4_v3.pth"),),
)
PREDICTOR = _predictor("noise_predictor.pth", "noise predictor of the paper")
# GitHub puts a point for characters that it does not allow in names of assets.
PREDICTOR_V2 = _predictor(
    "noise_predictor_v2.pth",
    "noise predictor, trained later",
    "noise_predictor(v2).pth",
    "noise_predictor.v2.pth",
)
SWINIR = ReleasedFile(
    "003_realSR_BSRGAN_DFOWMFC_s64w8_SwinIR-L_x4_GAN.pth",
    "upscale_models",
    "upscale_model",
    "start of PreSet-B",
    APACHE,
    (
        GitHubAsset(
            "JingyunLiang/SwinIR", "v0.0", "003_realSR_BSRGAN_DFOWMFC_s64w8_SwinIR-L_x4_GAN.pth"
        ),
    ),
)

RELEASED = (AUTOENCODER, DENOISER, PREDICTOR, PREDICTOR_V2, SWINIR)

PRESETS = {
    "PreSet-B": (AUTOENCODER, DENOISER, PREDICTOR, SWINIR),
    "PreSet-A": (AUTOENCODER, DENOISER, PREDICTOR),
    "ResShift": (AUTOENCODER, DENOISER),
}
"""Files that each preset needs."""

CHOICES = {**PRESETS, "all": RELEASED, **{file.name: (file,) for file in RELEASED}}
"""What can be asked for at once, by name."""
