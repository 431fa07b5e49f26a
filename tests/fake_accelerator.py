"""Runs every mixer on a device without memory that refuses copies from and to the CPU; prints what fails as JSON.

The device is torch's own for backends in Python, under `FakeTensorMode`: shapes, dtypes and devices, without numbers.
It changes torch for the whole process, which is why test_accelerator.py runs this file in a process of its own.
"""

import json
import sys
import traceback
from functools import partial

import torch
from test_laws import BUILDERS, VARIANTS
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode

import mixers
from mixers import LanguageModel
from mixers.ops import OPS
from mixers.ops.op import Implementation, Op

NAME = "fake"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ROWS, LENGTH, DIM = 2, 11, 32  # more than one chunk of 8, and a rest
CPU_FORMS = {"blocked", "complex"}  # implementations of ops
COPIES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}


class Backend(backend_registration._DummyBackendModule):
    def get_amp_supported_dtype(self):
        return [torch.bfloat16, torch.float16]


class RefuseHostCopies(TorchDispatchMode):
    """A tensor without dimensions may come from the CPU, as that of `torch.where(mask, x, 0.0)` does on any GPU."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
        devices = {tensor.device.type for tensor in tensors if tensor.dim() or func in COPIES}
        if len(devices) > 1:
            raise RuntimeError(f"{func} has tensors on {' and '.join(sorted(devices))}")
        return result


def register_device():
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=Backend())
    library = torch.library.Library("aten", "IMPL", "Meta")  # shapes that torch has not written down
    library.impl(
        "_thnn_fused_gru_cell", lambda x, h, hx, *biases: (torch.empty_like(hx), hx.new_empty(len(hx), 5 * hx.shape[1]))
    )

    def backward(grad, workspace, has_bias):
        gates = grad.new_empty(len(grad), 3 * grad.shape[1])
        return gates, gates.clone(), torch.empty_like(grad), gates[0].clone(), gates[0].clone()

    library.impl("_thnn_fused_gru_cell_backward", backward)
    return library


def on_device(build, dtype):
    """A module with parameters on the device; nothing else is given a device or dtype."""
    with torch.device(NAME):
        module = build()
    module.load_state_dict({name: x.to(dtype) for name, x in module.state_dict().items()}, assign=True)
    return module


def run_mixer(build, dtype):
    mixer = on_device(lambda: build(DIM), dtype)
    x = torch.randn(ROWS, LENGTH, DIM, device=NAME, dtype=dtype, requires_grad=True)
    mixer(x).sum().backward()
    y, state = mixer.extend(x, mixer.initial_state(ROWS))
    y.sum().backward()
    with torch.no_grad():
        _, state = mixer.extend(x, mixer.initial_state(ROWS))
        _, state = mixer.extend(x[:, :1], state)
        for tokens in (3, 0, 2):
            state = mixer.prepare_decoding(state, tokens)
            for _ in range(tokens):
                _, state = mixer.decode(x[:, :1], state)


def run_model(name, dtype):
    model = on_device(lambda: LanguageModel(mixers.get(name), vocab_size=50, dim=DIM, depth=2), dtype)
    ids = torch.zeros(ROWS, LENGTH, dtype=torch.long, device=NAME)
    model.loss(ids, ids).backward()


def choose(op):
    chosen = op.choose(*op.examples(LENGTH, DIM, torch.float32, torch.device(NAME))).name
    if chosen in CPU_FORMS:
        raise AssertionError(f"runs {chosen}, which is for a CPU")


def choose_a_cpu_form(op):
    choose(Op(op["reference"].run, [Implementation("blocked", op["blocked"].run, lambda *_: None)], op._examples))


def on_input(run):
    run(torch.randn(ROWS, LENGTH, DIM, device=NAME))


WRONG = {
    "item()": partial(on_input, lambda x: x * x.sum().item()),
    "tolist()": partial(on_input, lambda x: x * x[0, 0].tolist()[0]),
    "bool()": partial(on_input, lambda x: x if x.sum() > 0 else -x),
    "a shape that depends on numbers": partial(on_input, lambda x: x[:, x.sum((0, 2)) > 0]),
    "a CPU tensor added": partial(on_input, lambda x: x + torch.arange(DIM)),
    "a CPU tensor as index": partial(on_input, lambda x: x[:, torch.arange(LENGTH)]),
    "a copy to the CPU and back": partial(on_input, lambda x: x.cpu().cumsum(1).to(x.device)),
    "a copy into a CPU tensor": partial(on_input, lambda x: torch.zeros(x.shape).copy_(x)),
    "an implementation for the CPU": partial(choose_a_cpu_form, OPS["gated_norm"]),
    "numpy": partial(on_input, lambda x: x + torch.from_numpy(x.numpy())),
}


def outcome(run):
    """What failed, and where in the project; nothing if nothing did."""
    try:
        with FakeTensorMode(allow_fallback_kernels=False), RefuseHostCopies():
            run()
    except Exception as error:
        places = [
            f"{f.filename}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__) if "mixers" in f.filename
        ]
        return f"{type(error).__name__}: {str(error)[:500]} at {' '.join(places[-4:])}"
    return ""


CASES = {
    **{
        f"{name}, {dtype}": partial(run_mixer, BUILDERS[name], dtype) for name in mixers.available() for dtype in DTYPES
    },
    **{name: partial(run_mixer, build, torch.bfloat16) for name, build in VARIANTS.items()},
    **{f"a model of {name}": partial(run_model, name, torch.float32) for name in mixers.available()},
    **{f"a model of retention, {dtype}": partial(run_model, "retention", dtype) for dtype in DTYPES[1:]},
    **{f"the op {name}": partial(choose, op) for name, op in OPS.items()},
}


def main():
    library = register_device()  # which lasts as long as this does
    json.dump({name: outcome(run) for name, run in (CASES | WRONG).items()}, sys.stdout)
    del library


if __name__ == "__main__":
    main()
