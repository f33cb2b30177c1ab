"""Count GPU operations and memory without a GPU, with FakeTensors: tensors with a shape and a
device but without values.

Counts the operations that write GPU memory (about one kernel each), the bytes that they write, and
the peak memory of the tensors created during the run. Not counted: views, and the workspace that
cuDNN or a kernel allocates internally, e.g. to change the memory layout.
"""

import traceback
import weakref
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

FAKE = FakeTensorMode()
"""FakeTensor mode of all runs. It is shared, because networks cache tensors between runs."""

ROOT = Path(__file__).parents[2]
_COPIES = """clone cat stack roll flip repeat index index_select index_put_ gather embedding
slice_scatter constant_pad_nd reflection_pad2d replication_pad2d upsample_nearest2d"""
_KINDS = {
    "convolution": "convolution",
    "matmul": "mm addmm bmm baddbmm addbmm",
    "norm": "native_group_norm native_layer_norm",
    "copy": _COPIES,
}
_KIND_OF = {name: kind for kind, names in _KINDS.items() for name in names.split()}


class Counts(TorchDispatchMode):
    """Context manager that counts operations. Use it inside `FAKE`.

    Attributes:
        operations: number of operations that write memory of the device, by kind: "convolution",
            "matmul", "attention", "norm", "cast" (change of dtype), "copy", "transfer" (from
            another device), "elementwise" or "other".
        written: bytes that the operations write, by kind.
        peak: peak memory of live tensors, in bytes.
        waits: places where the host waits for the device, as "file:line operation".
    """

    def __init__(self, device: str = "cuda") -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.written: Counter[str] = Counter()
        self.peak = 0
        self.waits: list[str] = []
        self._device = device
        self._live: dict[int, int] = {}
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    @property
    def total(self) -> int:
        """Number of operations of all kinds."""
        return sum(self.operations.values())

    def write(self, kind: str, *tensors: Tensor) -> None:
        """Record one operation of the given kind, and the tensors that it wrote."""
        on_device = [x for x in tensors if x.device.type == self._device]
        if on_device:
            self.operations[kind] += 1
            self.written[kind] += sum(x.numel() * x.element_size() for x in on_device)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if _of_parts(func, name):
            with self:
                return func.decompose(*args, **kwargs)
        inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        self._note_wait(name, inputs, kwargs)
        if name == "_local_scalar_dense":
            return 1  # any number, since FakeTensors have no values
        storages = {x.untyped_storage()._cdata for x in inputs}
        result = func(*args, **kwargs)
        outputs = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
        made = [x for x in outputs if x.untyped_storage()._cdata not in storages]
        for x in made:
            self._note_live(x)
        if func._schema.is_mutable:
            made = [
                value
                for argument, value in zip(func._schema.arguments, args, strict=False)
                if argument.alias_info is not None and argument.alias_info.is_write
            ] + [x for x in (kwargs.get("out"),) if x is not None]
        if made and not name.startswith(("empty", "new_empty")):
            self.write(_kind(func, name, made[0], inputs), *made)
        return result

    def _note_live(self, x: Tensor) -> None:
        storage = x.untyped_storage()
        if x.device.type != self._device or storage in self._known:
            return
        self._known.add(storage)
        key = id(storage)
        self._live[key] = storage.nbytes()
        weakref.finalize(storage, self._live.pop, key)
        self.peak = max(self.peak, sum(self._live.values()))

    def _note_wait(self, name: str, inputs: list[Tensor], kwargs: dict[str, Any]) -> None:
        there = [x.device.type == self._device for x in inputs]
        crosses = False
        if name == "_to_copy" and not kwargs.get("non_blocking"):
            device = kwargs.get("device")
            crosses = device is not None and (torch.device(device).type == self._device) != there[0]
        elif name == "copy_":
            crosses = len(there) == 2 and there[0] != there[1]
        if crosses or (name == "_local_scalar_dense" and any(there)):
            self.waits.append(f"{_caller()} {name}")


class _Attention(TorchFunctionMode):
    """Counts attention as a single kernel, as on CUDA."""

    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self._counts = counts

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            return self._attend(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, **_: Any
    ) -> Tensor:
        """Count attention. q, k, v: [b,heads,n,d] -> [b,heads,n,d], without values.

        As on CUDA, a mask that is not aligned is first copied to a padded one.
        """
        strides = [*q.stride()[-1:], *k.stride()[-1:], *v.stride()[-1:]]
        if strides != [1, 1, 1]:
            raise ValueError(
                f"q, k, v have the strides {strides} in the last dimension; CUDA's kernels need 1"
            )
        if attn_mask is not None and not _aligned(attn_mask):
            n = attn_mask.shape[-1]
            padded = attn_mask.new_empty(*attn_mask.shape[:-1], n + 8 - n % 8)
            self._counts.write("copy", padded)
        b, heads, n, _ = q.shape
        out = q.new_empty(b, n, heads, v.shape[3]).transpose(1, 2)
        self._counts.write("attention", out)
        return out


def _aligned(mask: Tensor) -> bool:
    """Return whether the memory-efficient kernel accepts the mask without a copy."""
    return mask.stride(-1) == 1 and all(stride % 8 == 0 for stride in mask.stride()[:-1])


def _of_parts(func: Any, name: str) -> bool:
    """Return whether PyTorch implements an operation by calling other operations.

    False for upsampling: only compilers decompose it, and otherwise it is a single kernel.
    """
    if func.namespace != "aten" or "upsample" in name:
        return False
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")


def _kind(func: Any, name: str, output: Tensor, inputs: list[Tensor]) -> str:
    if name in ("_to_copy", "copy_"):
        source = inputs[-1]
        if source.device != output.device:
            return "transfer"
        return "copy" if source.dtype == output.dtype else "cast"
    elementwise = torch.Tag.pointwise in func.tags
    return _KIND_OF.get(name, "elementwise" if elementwise else "other")


def _caller() -> str:
    """Return the innermost stack frame in the pack's code as "file:line", or "elsewhere"."""
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename)
        if path.is_relative_to(ROOT / "lpnsr_impl") or path.is_relative_to(ROOT / "nodes"):
            return f"{path.relative_to(ROOT)}:{frame.lineno}"
    return "elsewhere"


def counted(function: Callable[[Counts], Any]) -> Counts:
    """Count the operations of a function on a fake "cuda" device."""
    with FAKE, torch.inference_mode(), Counts() as counts, _Attention(counts):
        function(counts)
    return counts
