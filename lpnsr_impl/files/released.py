"""Table of the released model files, used by downloads, LPNSR Doctor, documentation and workflows.

It contains what was publicly known in November 2026. The addresses are untested, because this pack
was developed without access to any site except PyPI.
"""

import os
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote

GITHUB = "https://github.com"
MIRROR_VARIABLE = "LPNSR_DOWNLOAD_MIRROR"
"""Environment variable with the address of a GitHub mirror. For Hugging Face, it is HF_ENDPOINT."""

FolderKind = Literal["lpnsr", "upscale_models"]


@dataclass(frozen=True)
class Licence:
    """Licence of a file. `commercial` is True if it allows commercial use."""

    name: str
    url: str
    commercial: bool = True


S_LAB = Licence(
    "S-Lab, non-commercial", f"{GITHUB}/zsyOAOA/ResShift/blob/master/LICENSE", commercial=False
)
SINSR_LAB = Licence(
    "S-Lab, non-commercial", f"{GITHUB}/wyf0912/SinSR/blob/main/LICENSE", commercial=False
)
UNTOLD = Licence(
    "see its page; its teacher is S-Lab, non-commercial",
    "https://huggingface.co/sorryhyun/Distilled-ResShift-4x",
    commercial=False,
)
MIT = Licence("MIT", f"{GITHUB}/Faze-Hsw/LPNSR")
APACHE = Licence("Apache-2.0", f"{GITHUB}/JingyunLiang/SwinIR/blob/main/LICENSE")


@dataclass(frozen=True)
class GitHubAsset:
    """A file of a GitHub release with the tag `release`."""

    repository: str
    release: str
    name: str

    @property
    def page(self) -> str:
        """Address of the release's web page."""
        return f"{GITHUB}/{self.repository}/releases/tag/{self.release}"

    @property
    def url(self) -> str:
        """Address of the file, on the mirror if one is set."""
        host = (os.environ.get(MIRROR_VARIABLE) or GITHUB).rstrip("/")
        return f"{host}/{self.repository}/releases/download/{self.release}/{quote(self.name)}"


@dataclass(frozen=True)
class HubFile:
    """A file of a model repository on Hugging Face."""

    repository: str
    name: str

    @property
    def page(self) -> str:
        """Address of the repository's web page."""
        return f"https://huggingface.co/{self.repository}"

    @property
    def url(self) -> str:
        """Address of the file, on the server in HF_ENDPOINT if that is set."""
        from huggingface_hub import hf_hub_url

        # The library reads HF_ENDPOINT only when it is imported.
        endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or None
        return hf_hub_url(self.repository, self.name, endpoint=endpoint)


@dataclass(frozen=True)
class ReleasedFile:
    """A published file, with its size in bytes and SHA-256 if they are known."""

    name: str
    folder: FolderKind
    part: str
    purpose: str
    licence: Licence
    sources: tuple[HubFile | GitHubAsset, ...]  # tried in this order
    size: int | None = None
    sha256: str | None = None


def _of_resshift(name: str, purpose: str) -> ReleasedFile:
    return ReleasedFile(
        name, "lpnsr", "denoiser", purpose, S_LAB, (GitHubAsset("zsyOAOA/ResShift", "v2.0", name),)
    )


def _of_sinsr(name: str, purpose: str) -> ReleasedFile:
    source = GitHubAsset("wyf0912/SinSR", "v1.0", name)
    return ReleasedFile(name, "lpnsr", "denoiser", purpose, SINSR_LAB, (source,))


def _predictor(name: str, purpose: str) -> ReleasedFile:
    source = HubFile("mirpri/LPNSR", name)
    return ReleasedFile(name, "lpnsr", "noise_predictor", purpose, MIT, (source,))


AUTOENCODER = ReleasedFile(
    "autoencoder_vq_f4.pth",
    "lpnsr",
    "autoencoder",
    "autoencoder between images and latents",
    S_LAB,
    (
        HubFile("mirpri/LPNSR", "autoencoder_vq_f4.pth"),
        GitHubAsset("zsyOAOA/ResShift", "v2.0", "autoencoder_vq_f4.pth"),
    ),
    size=221_364_711,
    sha256="e967eaa2c380152811c53e312990d6967a8a957c4f7590f19490ec72110b2889",
)
DENOISER = ReleasedFile(
    "resshift_realsrx4_s4_v3.pth",
    "lpnsr",
    "denoiser",
    "ResShift's denoiser, 4 steps",
    S_LAB,
    (
        HubFile("mirpri/LPNSR", "resshift_realsrx4_s4_v3.pth"),
        GitHubAsset("zsyOAOA/ResShift", "v2.0", "resshift_realsrx4_s4_v3.pth"),
    ),
    size=477_917_058,
    sha256="878da888bbbe10b8b0d4ff179c2de3059fd8a4cf2c705942a77a7f3b23ea1efd",
)
PREDICTOR = _predictor("noise_predictor.pth", "the paper's noise predictor, for PreSet-B")
PREDICTOR_V2 = _predictor("noise_predictor_v2.pth", "noise predictor, GAN in latent space")
PREDICTOR_V3 = _predictor(
    "noise_predictor_v3.safetensors", "the authors' default noise predictor, for PreSet-A"
)
SWINIR = ReleasedFile(
    "003_realSR_BSRGAN_DFOWMFC_s64w8_SwinIR-L_x4_GAN.pth",
    "upscale_models",
    "upscale_model",
    "start of PreSet-B",
    APACHE,
    (
        HubFile("mirpri/LPNSR", "003_realSR_BSRGAN_DFOWMFC_s64w8_SwinIR-L_x4_GAN.pth"),
        GitHubAsset(
            "JingyunLiang/SwinIR", "v0.0", "003_realSR_BSRGAN_DFOWMFC_s64w8_SwinIR-L_x4_GAN.pth"
        ),
    ),
    size=142_473_939,
    sha256="99adfa91350a84c99e946c1eb3d8fce34bc28f57d807b09dc8fe40a316328c0a",
)
DENOISER_15_V1 = _of_resshift("resshift_realsrx4_s15_v1.pth", "ResShift's denoiser, 15 steps")
DENOISER_15_V2 = _of_resshift("resshift_realsrx4_s15_v2.pth", "ResShift's denoiser, 15 steps")
DENOISER_BICUBIC = _of_resshift(
    "resshift_bicsrx4_s4.pth", "ResShift's denoiser for bicubic LR, 4 steps"
)
SINSR_V1 = _of_sinsr("SinSR_v1.pth", "SinSR, a one-step student")
SINSR_V2 = _of_sinsr("SinSR_v2.pth", "SinSR, a one-step student")
RSD_STUDENT = ReleasedFile(
    "rsd_student_final.safetensors",
    "lpnsr",
    "denoiser",
    "RSD, a one-step student",
    UNTOLD,
    (HubFile("sorryhyun/Distilled-ResShift-4x", "rsd_student_final.safetensors"),),
)

RELEASED = (
    AUTOENCODER,
    DENOISER,
    PREDICTOR,
    PREDICTOR_V2,
    PREDICTOR_V3,
    SWINIR,
    DENOISER_15_V1,
    DENOISER_15_V2,
    DENOISER_BICUBIC,
    SINSR_V1,
    SINSR_V2,
    RSD_STUDENT,
)

PRESETS = {
    "PreSet-B": (AUTOENCODER, DENOISER, PREDICTOR, SWINIR),
    "PreSet-A": (AUTOENCODER, DENOISER, PREDICTOR_V3),
    "ResShift": (AUTOENCODER, DENOISER),
}
"""Files that each preset needs."""

STUDENTS = {"SinSR": (AUTOENCODER, SINSR_V2), "RSD": (AUTOENCODER, RSD_STUDENT)}
"""Files that each one-step student needs."""

STAND_INS = {PREDICTOR_V3: PREDICTOR}
"""Alternatives to a file of a preset. PreSet-A can use the paper's noise predictor instead of its
own."""

CHOICES = {**PRESETS, **STUDENTS, "all": RELEASED, **{file.name: (file,) for file in RELEASED}}
"""Choices for a download: the files of a preset or student, all files, or a single file."""
