"""A custom node pack for the tests: feeds tensors into a real ComfyUI and reads them back,
simulates faults, and checks the state of models."""

import ast
import copy
import ctypes
import dataclasses
import gc
import importlib
import inspect
import json
import os
import sys
from pathlib import Path
from unittest import mock

import comfy.model_management as mm
import comfy.sd
import folder_paths
import psutil
import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import ComfyExtension, io
from safetensors.torch import load_file, save_file
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import nodes

if os.environ.get("LPNSR_PROBE_DYNAMIC_VRAM"):
    # Enable dynamic VRAM, as ComfyUI's main.py does on NVIDIA GPUs.
    import comfy.memory_management
    import comfy.model_patcher
    import comfy_aimdo.control

    comfy_aimdo.control.init()
    comfy.model_patcher.CoreModelPatcher = comfy.model_patcher.ModelPatcherDynamic
    comfy.memory_management.aimdo_enabled = True

LAYOUTS = {
    "transposed": lambda x, b, h, w, c: x.new_empty(b, w, h, c).transpose(1, 2),
    "channels_first": lambda x, b, h, w, c: x.new_empty(b, c, h, w).movedim(1, -1),
    "channels_last": lambda x, b, h, w, c: torch.empty_like(x, memory_format=torch.channels_last),
    "strided": lambda x, b, h, w, c: x.new_empty(b, 2 * h, 3 * w, c)[:, 1::2, ::3],
    "offset": lambda x, b, h, w, c: x.new_empty(x.numel() + 1)[1:].view(x.shape),
}
"""Functions by memory layout. Each allocates a tensor of the shape of x, [b,h,w,c], in this
layout."""


class ProbeLoad(io.ComfyNode):
    """Loads the tensor "image" of a safetensors file in the input folder as an IMAGE, and keeps its
    dtype.

    layout: memory layout of the IMAGE: a key of LAYOUTS, "" for contiguous, or "expanded" to
        repeat the first picture of the batch with stride 0.
    """

    @classmethod
    def define_schema(cls):
        inputs = [io.String.Input("file"), io.String.Input("layout", default="", optional=True)]
        return io.Schema("ProbeLoad", inputs=inputs, outputs=[io.Image.Output("image")])

    @classmethod
    def execute(cls, file, layout=""):
        x = load_file(Path(folder_paths.get_input_directory()) / file)["image"]
        if layout == "expanded":
            x = x[:1].expand_as(x)
        elif layout:
            x = LAYOUTS[layout](x, *x.shape).copy_(x)
        return io.NodeOutput(x)

    @classmethod
    def fingerprint_inputs(cls, file, layout=""):
        return (Path(folder_paths.get_input_directory()) / file).stat().st_mtime_ns


class ProbeSave(io.ComfyNode):
    """Saves an IMAGE or a LATENT's samples as a safetensors file in the output folder."""

    @classmethod
    def define_schema(cls):
        inputs = [
            io.Image.Input("image", optional=True),
            io.Latent.Input("latent", optional=True),
            io.String.Input("file"),
        ]
        return io.Schema("ProbeSave", inputs=inputs, outputs=[], is_output_node=True)

    @classmethod
    def execute(cls, file, image=None, latent=None):
        tensor = image if image is not None else latent["samples"]
        save_file({"result": tensor.contiguous()}, Path(folder_paths.get_output_directory()) / file)
        return io.NodeOutput()


def module_of_pack(network, module):
    """Import a module of the pack, e.g. "engine.memory". The name of the pack's package, which
    ComfyUI chooses, is taken from the class of `network`."""
    return importlib.import_module(f"{type(network).__module__.rpartition('.models.')[0]}.{module}")


FAKE = FakeTensorMode()
"""Mode that creates FakeTensors. They have no values, and can be on "cuda" without a GPU."""


class NoValues(TorchDispatchMode):
    """Makes operations that read a FakeTensor's value, such as `item`, return 1."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in ("_local_scalar_dense", "item", "is_nonzero"):
            return 1
        return func(*args, **(kwargs or {}))


def offload(network, dtype):
    """Copy a network, prepare it for "cuda" in the given precision, and replace its weights by
    FakeTensors on the CPU."""
    network = copy.deepcopy(network)
    accelerate = module_of_pack(network, "accelerate")
    accelerate.set_precision(network, dtype, dtype)
    accelerate.accelerate(network, torch.device("cuda"))
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            fake = FAKE.from_tensor(parameter.data)
            setattr(module, name, torch.nn.Parameter(fake, requires_grad=False))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, FAKE.from_tensor(buffer))
    return network


class ProbeOffloaded(io.ComfyNode):
    """Runs the engine on FakeTensors to check devices and dtypes without a GPU: PyTorch raises an
    error if they do not match. Outputs LPNSR_MODELS unchanged.

    The image is on "cuda" and runs in batches of tiles. All weights are on the CPU, and ComfyUI's
    layers move them to "cuda" for each call.
    """

    @classmethod
    def define_schema(cls):
        models = io.Custom("LPNSR_MODELS")
        inputs = [models.Input("models"), io.String.Input("precision")]
        return io.Schema("ProbeOffloaded", inputs=inputs, outputs=[models.Output("same")])

    @classmethod
    def execute(cls, models, precision):
        dtype = getattr(torch, precision)
        parts = (models.autoencoder, models.denoiser, models.noise_predictor)
        networks = [offload(part.network, dtype) for part in parts]
        engine, memory, picture, finish, sampler, tiled = (
            module_of_pack(networks[0], module)
            for module in (
                "engine.engine",
                "engine.memory",
                "pictures.picture",
                "engine.finish",
                "method.sampler",
                "engine.tiled",
            )
        )

        class Plenty(memory.Memory):
            def free(self, networks):
                return 1 << 34

        managed = [memory.Managed(network, torch.device("cuda")) for network in networks]
        tiling = tiled.Tiling(64, 16)
        engine = engine.Engine(engine.Networks(models.family, *managed), Plenty(), tiling)
        devices, batches = set(), set()

        def watch(module, inputs):
            devices.update(x.device.type for x in inputs if isinstance(x, torch.Tensor))
            batches.add(len(inputs[0]))

        for network in (networks[0].encoder, networks[0].decoder, *networks[1:]):
            network.register_forward_pre_hook(watch)
        with FAKE, NoValues():
            lr = picture.Picture(torch.zeros(1, 3, 60, 120))
            image, _ = engine.upscale(lr, None, sampler.Sampling(seed=1), finish.Finish())
        if (devices, batches, image.shape) != ({"cuda"}, {3}, (1, 3, 240, 480)):
            raise RuntimeError(
                f"got batches of {batches} on {devices}, and an image of {tuple(image.shape)}; "
                "expected batches of 3 on cuda, and an image of (1, 3, 240, 480)"
            )
        return io.NodeOutput(models)


def limit_width(network, limit, *parts):
    """Make submodules of a network raise an out-of-memory error for inputs wider than `limit`.
    Returns the network."""

    def refuse(module, inputs):
        if inputs[0].shape[3] > limit:
            raise torch.OutOfMemoryError("out of memory (simulated by the test's probe)")

    for part in parts:
        network.get_submodule(part).register_forward_pre_hook(refuse)
    return network


class ProbeOutOfMemory(io.ComfyNode):
    """Outputs a copy of LPNSR_MODELS. Its network `part` raises an out-of-memory error for inputs
    wider than `limit`."""

    @classmethod
    def define_schema(cls):
        models = io.Custom("LPNSR_MODELS")
        inputs = [models.Input("models"), io.Int.Input("limit"), io.String.Input("part")]
        return io.Schema("ProbeOutOfMemory", inputs=inputs, outputs=[models.Output("copies")])

    @classmethod
    def execute(cls, models, limit, part):
        name = "autoencoder" if part in ("encoder", "decoder") else part
        managed = getattr(models, name)
        network = limit_width(copy.deepcopy(managed.network), limit, part if part != name else "")
        patcher = ModelPatcher(network, managed.patcher.load_device, managed.patcher.offload_device)
        copied = dataclasses.replace(managed, network=network, patcher=patcher)
        return io.NodeOutput(dataclasses.replace(models, **{name: copied}))


class ProbeUpscaleOutOfMemory(io.ComfyNode):
    """Outputs a copy of an UPSCALE_MODEL. It raises an out-of-memory error for inputs wider than
    `limit`."""

    @classmethod
    def define_schema(cls):
        inputs = [io.UpscaleModel.Input("upscale_model"), io.Int.Input("limit")]
        outputs = [io.UpscaleModel.Output("same")]
        return io.Schema("ProbeUpscaleOutOfMemory", inputs=inputs, outputs=outputs)

    @classmethod
    def execute(cls, upscale_model, limit):
        descriptor = copy.deepcopy(upscale_model)
        limit_width(descriptor.model, limit, "")
        return io.NodeOutput(descriptor)


class ProbeWithoutPatcher(io.ComfyNode):
    """Outputs a copy of an UPSCALE_MODEL without a model patcher. ComfyUI's own loader has added a
    patcher since version 0.29; loaders of other packs do not."""

    @classmethod
    def define_schema(cls):
        inputs = [io.UpscaleModel.Input("upscale_model")]
        outputs = [io.UpscaleModel.Output("bare")]
        return io.Schema("ProbeWithoutPatcher", inputs=inputs, outputs=outputs)

    @classmethod
    def execute(cls, upscale_model):
        bare = copy.copy(upscale_model)
        vars(bare).pop("patcher", None)
        return io.NodeOutput(bare)


class ProbeForgotten(io.ComfyNode):
    """Checks that the pack can count evictable memory while ComfyUI lists a loaded model whose
    patcher was deleted. Outputs LPNSR_MODELS unchanged."""

    @classmethod
    def define_schema(cls):
        models = io.Custom("LPNSR_MODELS")
        return io.Schema(
            "ProbeForgotten", inputs=[models.Input("models")], outputs=[models.Output("same")]
        )

    @classmethod
    def execute(cls, models):
        network = torch.nn.Linear(8, 8)
        network.itself = [network]  # a reference cycle keeps the network alive without a patcher
        patcher = ModelPatcher(network, mm.get_torch_device(), torch.device("cpu"))
        mm.load_models_gpu([patcher])
        del patcher, network
        if all(mm.loaded_models()):
            raise RuntimeError("ComfyUI lists no loaded model whose patcher was deleted")
        manage = importlib.import_module(type(models.autoencoder).__module__)
        gc.disable()
        try:
            manage._evictable(mm.get_torch_device())
        finally:
            gc.enable()
        return io.NodeOutput(models)


class ProbeMemory(io.ComfyNode):
    """Returns unused memory to the system, and counts the remaining tensors."""

    @classmethod
    def define_schema(cls):
        return io.Schema("ProbeMemory", inputs=[], outputs=[], is_output_node=True)

    @classmethod
    def execute(cls):
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        tensors = sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())
        return io.NodeOutput(ui={"tensors": [tensors]})


class ProbeSharedWeights(io.ComfyNode):
    """Checks that the VAE shares weights and patcher with the autoencoder. Also calls the methods
    that ComfyUI's RAM cache calls on outputs. Outputs LPNSR_MODELS unchanged."""

    @classmethod
    def define_schema(cls):
        models = io.Custom("LPNSR_MODELS")
        inputs = [models.Input("models"), io.Vae.Input("vae")]
        return io.Schema("ProbeSharedWeights", inputs=inputs, outputs=[models.Output("same")])

    @classmethod
    def execute(cls, models, vae):
        ours = models.autoencoder
        if vae.patcher is not ours.patcher or vae.first_stage_model is not ours.network:
            raise RuntimeError("the VAE does not wrap the LPNSR autoencoder")
        if vae.model_size() != ours.patcher.model_size():
            raise RuntimeError("model_size() of the VAE and of the autoencoder differ")
        if models.is_dynamic():
            raise RuntimeError("is_dynamic() of the models is True although dynamic VRAM is off")
        return io.NodeOutput(models)


class ProbeVAEAttributes(io.ComfyNode):
    """Checks that a VAE has every attribute that methods of ComfyUI's VAE class read from `self`.
    Outputs the VAE unchanged."""

    @classmethod
    def define_schema(cls):
        inputs = [io.Vae.Input("vae")]
        return io.Schema("ProbeVAEAttributes", inputs=inputs, outputs=[io.Vae.Output("same")])

    @classmethod
    def execute(cls, vae):
        (host_class,) = ast.parse(inspect.getsource(comfy.sd.VAE)).body
        methods = [part for part in host_class.body if getattr(part, "name", "") != "__init__"]
        read = {
            node.attr
            for method in methods
            for node in ast.walk(method)
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self"
        }
        if missing := sorted(name for name in read if not hasattr(vae, name)):
            raise RuntimeError(f"the VAE lacks the attributes {', '.join(missing)}")
        return io.NodeOutput(vae)


class ProbeClosedVAE(io.ComfyNode):
    """Runs Load LPNSR Models while ComfyUI's VAE class raises an error for state dicts with the key
    `closed`, or for all state dicts if `closed` is empty."""

    @classmethod
    def define_schema(cls):
        names = ("autoencoder", "denoiser", "noise_predictor", "precision", "closed")
        outputs = [io.Custom("LPNSR_MODELS").Output("models"), io.Vae.Output("vae")]
        inputs = [io.String.Input(name) for name in names]
        return io.Schema("ProbeClosedVAE", inputs=inputs, outputs=outputs)

    @classmethod
    def execute(cls, closed, **inputs):
        original = comfy.sd.VAE.__init__

        def init(self, sd=None, *args, **kwargs):
            if not closed or closed in sd:
                raise RuntimeError("state dict refused (simulated by the test's probe)")
            original(self, sd, *args, **kwargs)

        with mock.patch.object(comfy.sd.VAE, "__init__", init):
            return nodes.NODE_CLASS_MAPPINGS["LoadLPNSRModels"].execute(**inputs)


class ProbeScarceMemory(io.ComfyNode):
    """Runs a node of the pack while the system reports 1 MB of available main memory."""

    @classmethod
    def define_schema(cls):
        inputs = [
            io.String.Input("node"),
            io.String.Input("widgets", tooltip="Widget values of the node, as JSON."),
            io.Image.Input("image", optional=True),
            io.Custom("LPNSR_MODELS").Input("models", optional=True),
            io.Latent.Input("samples", optional=True),
        ]
        return io.Schema("ProbeScarceMemory", inputs=inputs, outputs=[io.Image.Output("result")])

    @classmethod
    def execute(cls, node, widgets, **inputs):
        memory = psutil.virtual_memory()._replace(available=1 << 20)
        with mock.patch.object(psutil, "virtual_memory", return_value=memory):
            return nodes.NODE_CLASS_MAPPINGS[node].execute(**inputs, **json.loads(widgets))


class ProbePublished(io.ComfyNode):
    """Replaces fields in the pack's table of released files. The input is JSON: {file name: {field:
    value}}."""

    @classmethod
    def define_schema(cls):
        inputs = [io.String.Input("fields")]
        return io.Schema("ProbePublished", inputs=inputs, outputs=[], is_output_node=True)

    @classmethod
    def execute(cls, fields):
        published = json.loads(fields)
        (released,) = (
            m for name, m in sys.modules.items() if name.endswith("lpnsr_impl.files.released")
        )
        for choice, files in list(released.CHOICES.items()):
            released.CHOICES[choice] = tuple(
                dataclasses.replace(f, **published.get(f.name, {})) for f in files
            )
        return io.NodeOutput()


class ProbeExtension(ComfyExtension):
    async def get_node_list(self):
        return [
            ProbeLoad,
            ProbeSave,
            ProbeOffloaded,
            ProbeOutOfMemory,
            ProbeUpscaleOutOfMemory,
            ProbeWithoutPatcher,
            ProbeForgotten,
            ProbeMemory,
            ProbeSharedWeights,
            ProbeVAEAttributes,
            ProbeClosedVAE,
            ProbePublished,
            ProbeScarceMemory,
        ]


async def comfy_entrypoint():
    return ProbeExtension()
