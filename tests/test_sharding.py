"""Models of which each process has a part: how they are built, what they are asked, and what is refused."""

import gc
import inspect
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import torch
from pytorch_lightning.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy
from small_runs import model, says, text, trainer
from small_text import Recorder
from small_text import text as data_of
from torch import distributed as dist
from torch._subclasses import FakeTensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor
from torch.nn.modules.module import register_module_module_registration_hook
from torch.testing._internal.distributed.fake_pg import FakeStore

from lit_modules import LitLanguageModel
from lit_modules.training.fsdp2 import FSDP2
from lit_modules.training.optimizer import Rates, parameter_groups
from lit_modules.training.sharded import BLOCK_METHODS, MODEL_METHODS, check_shares, shard, weights_later
from lit_modules.training.strategies import choose_strategy
from mixers import LanguageModel, Retention, available
from mixers.checks import UsageError
from mixers.model import Block

PROCESSES = 4
SMALL = {"mixer": partial(Retention, num_heads=2), "vocab_size": 100, "dim": 32, "depth": 12}


@pytest.fixture
def mesh() -> Iterator[DeviceMesh]:
    """Four processes of which only this one, the first, is there; what the others send is whatever memory holds."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=PROCESSES, timeout=timedelta(seconds=10))
    yield init_device_mesh("cpu", (PROCESSES,))
    dist.destroy_process_group()


def without_weights(**options: object) -> LitLanguageModel:
    torch.manual_seed(0)
    with weights_later():
        module = LitLanguageModel(**options)
    assert all(parameter.is_meta for parameter in module.parameters())
    return module


@pytest.mark.parametrize("name", sorted(available()))
def test_a_model_that_is_built_in_parts_has_the_weights_of_one_built_whole(name: str, mesh: DeviceMesh) -> None:
    options = {"mixer": name, "vocab_size": 100, "dim": 32, "depth": 2, "tie_embeddings": False}
    torch.manual_seed(0)
    whole = LanguageModel(**options).state_dict()
    module = without_weights(**options)
    torch.manual_seed(1)  # what else is drawn meanwhile does not matter
    before = torch.get_rng_state()
    found = shard(module.model, module._recipe, mesh).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert found.keys() == whole.keys()
    for key, tensor in found.items():
        assert isinstance(tensor, DTensor)
        assert tensor.shape == whole[key].shape
        assert torch.equal(tensor.to_local(), whole[key].chunk(PROCESSES)[0]), key


def test_a_model_is_never_whole_while_it_is_built_in_parts(mesh: DeviceMesh) -> None:
    module, held = without_weights(**SMALL), []
    before = bytes_held()

    def registered(parent: object, name: str, child: object) -> None:
        if isinstance(child, Block):
            held.append(bytes_held() - before)

    watching = register_module_module_registration_hook(registered)
    try:
        sharded = shard(module.model, module._recipe, mesh)
    finally:
        watching.remove()
    sizes = {name: parameter.numel() * 4 for name, parameter in sharded.named_parameters()}
    total, block = sum(sizes.values()), sum(size for name, size in sizes.items() if name.startswith("blocks.0."))
    embedding = sizes["embed.weight"]
    assert len(held) == SMALL["depth"]
    assert max(held) < 1.1 * (total / PROCESSES + block + embedding)
    assert bytes_held() - before < 1.1 * total / PROCESSES
    assert total > 2 * max(held)  # or this model would be too small to tell


def bytes_held() -> int:
    """The memory of all tensors there are, each storage once; other tests may have left some that have none."""
    gc.collect()
    tensors = (found for found in gc.get_objects() if issubclass(type(found), torch.Tensor))
    storages = [t.untyped_storage() for t in tensors if not (t.is_meta or isinstance(t, DTensor | FakeTensor))]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def test_weights_decay_by_their_whole_shape(mesh: DeviceMesh) -> None:
    options = SMALL | {"dim": PROCESSES, "mixer": partial(Retention, num_heads=1)}  # one row of a matrix each
    whole = parameter_groups(LanguageModel(**options), Rates(lr=1.0, weight_decay=0.1))
    module = without_weights(**options)
    parts = parameter_groups(shard(module.model, module._recipe, mesh), Rates(lr=1.0, weight_decay=0.1))
    assert [(len(group["params"]), group["weight_decay"]) for group in parts] == [
        (len(group["params"]), group["weight_decay"]) for group in whole
    ]


@torch.no_grad()
@pytest.mark.parametrize("name", sorted(available()))
def test_states_of_a_shared_model_are_plain_tensors(name: str, mesh: DeviceMesh) -> None:
    options = {"mixer": name, "vocab_size": 100, "dim": 32, "depth": 2}
    module = without_weights(**options, start_token=0)
    shared, ids = shard(module.model, module._recipe, mesh), torch.ones(2, 3, dtype=torch.long)
    whole = LanguageModel(**options, start_token=0)
    shapes = []
    for asked in (shared, whole):
        states = asked.initial_state(2)
        logits, states = asked.extend(ids, states)
        states = asked.restart(states, torch.tensor([True, False]))
        logits, states = asked.next_logits(ids, states)
        logits, states = asked.decode(ids[:, :1], asked.prepare_decoding(states, 1))
        leaves = torch.utils._pytree.tree_leaves((logits, states))
        assert not any(isinstance(leaf, DTensor) for leaf in leaves)
        shapes.append([leaf.shape for leaf in leaves])
    assert shapes[0] == shapes[1]
    assert all(isinstance(parameter, DTensor) for parameter in shared.parameters())


def test_the_weights_of_a_given_model_are_shared_out_as_they_are(mesh: DeviceMesh) -> None:
    module = LitLanguageModel(**SMALL)
    weights = {name: tensor.clone() for name, tensor in module.model.state_dict().items()}
    shared = shard(module.model, module._recipe, mesh)
    assert shared is module.model
    for name, tensor in shared.state_dict().items():
        assert torch.equal(tensor.to_local(), weights[name].chunk(PROCESSES)[0])


@pytest.mark.parametrize(
    "strategy",
    ["fsdp", "fsdp_cpu_offload", "deepspeed", "deepspeed_stage_2", "xla_fsdp", FSDPStrategy(), ModelParallelStrategy()],
)
def test_another_sharded_strategy_is_refused(strategy: object, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^strategy='\w+' .* write auto, ddp, or fsdp2 "):
        trainer(tmp_path, strategy=strategy)


@pytest.mark.parametrize("name", ["fsdp", "FSDPStrategy", "ModelParallelStrategy"])
def test_another_sharded_strategy_is_refused_on_the_command_line(
    name: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"strategy={name!r}" in says([*words, f"--trainer.strategy={name}"], capsys)


def test_a_mixer_with_a_scalar_parameter_is_refused(mesh: DeviceMesh) -> None:
    class Scaled(Retention):
        def __init__(self, dim: int) -> None:
            super().__init__(dim)
            self.scale = torch.nn.Parameter(torch.ones(()))

    module = without_weights(**SMALL | {"mixer": Scaled})
    with pytest.raises(UsageError, match=r"^the parameter mixer\.scale is a scalar"):
        shard(module.model, module._recipe, mesh)


def test_a_text_with_too_few_blocks_for_the_processes_is_refused(corpus: str) -> None:
    loader = data_of(corpus, block_size=50, batch_size=1).val_dataloader()
    blocks = len(loader)
    check_shares([loader], blocks)
    sentence = rf"^a text of {blocks} blocks of 50 tokens cannot be shared by {blocks + 1} processes: give more text"
    with pytest.raises(UsageError, match=sentence):
        check_shares([loader], blocks + 1)


def test_a_module_that_is_not_shared_out_is_refused(corpus: str, tmp_path: Path) -> None:
    class Whole(Recorder):
        def configure_model(self) -> None:
            pass

    with pytest.raises(UsageError, match=r"strategy='fsdp2' cannot share out a Whole: write ddp"):
        trainer(tmp_path, strategy="fsdp2", devices=1).fit(Whole(), datamodule=data_of(corpus))
    dist.destroy_process_group()


def test_strategies_with_a_whole_model_on_each_process_stay() -> None:
    for strategy in ("auto", "ddp", "ddp_find_unused_parameters_true", DDPStrategy()):
        assert choose_strategy(strategy, sharded_checkpoints=False, precision="auto") is strategy


def test_options_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"sharded_checkpoints=True needs strategy='fsdp2'"):
        trainer(tmp_path, sharded_checkpoints=True)
    with pytest.raises(UsageError, match=r"precision='16-mixed' .* write bf16-mixed or 32-true"):
        trainer(tmp_path, strategy="fsdp2", precision="16-mixed")


def test_one_process_trains_with_fsdp2_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    data = text(tmp_path)
    weights = []
    for strategy in ("fsdp2", "auto"):
        module = model(data)
        runs = trainer(tmp_path / strategy, strategy=strategy, devices=1)
        runs.fit(module, datamodule=data)
        assert isinstance(runs.strategy, FSDP2) == (strategy == "fsdp2")
        ckpt_path = next((tmp_path / strategy).rglob("last.ckpt"))
        weights.append(torch.load(ckpt_path, weights_only=True)["state_dict"])
    dist.destroy_process_group()
    torch.testing.assert_close(*weights, rtol=0, atol=1e-6)


def test_the_order_of_samples_goes_on_with_another_number_of_processes(corpus: str, cache: Path) -> None:
    alone = data_of(corpus, batch_size=8)
    blocks, expected = len(alone.train_dataloader().blocks), iter(alone.train_dataloader().batches())
    state = alone.state_dict()
    for processes, batches in ((2, 3), (1, 4), (4, 60), (2, 7)):
        shares = []
        for rank in range(processes):
            data = data_of(corpus, rank, processes, batch_size=8)
            data.load_state_dict(state)
            shares.append(iter(data.train_dataloader().batches()))
        for _ in range(batches):
            assert [sample for share in shares for sample in next(share)] == next(expected)
        state["samples_seen"] += 8 * batches
    assert state["samples_seen"] > 3 * blocks  # or no epoch would have ended under way


def test_every_method_that_reads_parameters_gathers_them_first() -> None:
    for cls, gathers, others in (
        (LanguageModel, MODEL_METHODS, {"forward", "generate", "parameter_counts"}),
        (Block, BLOCK_METHODS, {"forward"}),
    ):
        methods = {name for name, value in vars(cls).items() if inspect.isfunction(value) and not name.startswith("_")}
        assert methods == {*gathers, *others}, "name a new method in lit_modules/training/sharded.py, or here"
