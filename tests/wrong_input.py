"""Wrong input, and words of the sentence that each is answered with: read by test_wrong_input.py.

The folder that each line is tried in has the files of `prepare`: a corpus, configs, studies, tokenizers, checkpoints.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml
from safetensors.numpy import save_file
from small_runs import write_text
from small_study import STUDY

CHECKPOINT = "runs/retention/version_0/checkpoints/last.ckpt"
TOO_LARGE = 10**14

# After the words of a small run: `fit --data.corpus=corpus.txt ...`.
FIT = [
    ("--model.betas=[2,3]", "betas=[2.0, 3.0] two numbers from 0 to below 1"),
    ("--model.betas=[-1,0.9]", "betas=[-1.0, 0.9] two numbers"),
    ("--model.betas=[0.9]", "--model.betas 2 elements [0.9]"),
    ("--model.betas=[0.9,nan]", "--model.betas nan"),
    ("--model.lr=-1", "lr=-1.0 write a number above 0"),
    ("--model.lr=0", "lr=0.0 write a number above 0"),
    ("--model.lr=nan", "--model.lr float nan"),
    ("--model.lr=inf", "--model.lr float inf"),
    ("--model.lr=1e400", "lr=inf is not a finite number"),
    ("--model.lr=", "--model.lr float"),
    ("--model.warmup_steps=-3", "warmup_steps=-3 write 0 or more"),
    ("--model.min_lr_ratio=2", "min_lr_ratio=2.0 write 0 to 1"),
    ("--model.min_lr_ratio=-1", "min_lr_ratio=-1.0 write 0 to 1"),
    ("--model.weight_decay=-1", "weight_decay=-1.0 write 0 or more"),
    ("--model.decay_steps=0", "decay_steps=0 write 1 or more"),
    ("--model.decay_steps=1", "decay_steps=1 warmup_steps=2"),
    ("--model.schedule=quadratic", "--model.schedule cosine quadratic"),
    ("--model.dropout=1", "dropout=1.0 below 1"),
    ("--model.dropout=-0.1", "dropout=-0.1 write 0 or more"),
    ("--model.dim=0", "dim=0 write 1 or more"),
    ("--model.dim=7", "dim=7 num_heads=4 try num_heads=1"),
    ("--model.dim=1e3", "--model.dim int 1000.0"),
    ("--model.dim=100000000", "dim=100000000 GiB"),
    (f"--model.depth={TOO_LARGE}", f"depth={TOO_LARGE} GiB"),
    (f"--model.ffn_dim={TOO_LARGE}", "ffn_dim=100000000000000 GiB"),
    ("--model.depth=0", "depth=0 write 1 or more"),
    ("--model.ffn_dim=0", "ffn_dim=0 write 1 or more"),
    ("--model.ffn_dim=x", "--model.ffn_dim whole number x"),
    ("--model.ffn=relu", "--model.ffn gelu relu"),
    ("--model.norm=batch", "--model.norm rms batch"),
    ("--model.tie_embeddings=3", "--model.tie_embeddings bool 3"),
    ("--model.start_token=3", "start_token"),
    ("--model.mixer=retentoin", "No mixer did you mean 'retention'"),
    ("--model.mixer=os.system", "--model.mixer os.system"),
    ("--model.mixer=5", "No mixer is named '5'"),
    ("--model.mixer.num_heads=0", "num_heads=0 write 1 or more"),
    ("--model.mixer.num_heads=3", "num_heads=3 dim=32"),
    ("--model.mixer.gamma=2", "'retention' has no option 'gamma' num_heads"),
    ("--model.mixer.decay=2", "decay=2"),
    ("--model.overrides.9=retention", "overrides block 9"),
    ("--model.overrides.-1=retention", "overrides block -1"),
    ("--model.overrides=foo", "--model.overrides=foo is no mixer for each of some blocks. Write {3: attention}"),
    ("--model.overrides=5", "--model.overrides=5 is no mixer for each of some blocks."),
    ("--model.overrides.x=retention", "--model.overrides.x={x: ...} is no mixer for each of some blocks."),
    ('--model.overrides={"1":5}', "--model.overrides= is no mixer for each of some blocks."),
    ("--seed_everything=-1", "seed_everything=-1 0 to 4294967295"),
    ("--seed_everything=4294967296", "seed_everything=4294967296 0 to 4294967295"),
    ("--trainer.max_steps=-2", "max_steps=-2 write -1 or more"),
    ("--trainer.max_steps=many", "--trainer.max_steps int many"),
    ("--trainer.val_check_interval=0", "val_check_interval=0 write 1 or more"),
    ("--trainer.val_check_interval=0.5", "--trainer.val_check_interval whole number 0.5"),
    ("--trainer.save_every_n_steps=0", "save_every_n_steps=0 write 1 or more"),
    ("--trainer.save_every_n_steps=-5", "save_every_n_steps=-5 write 1 or more"),
    ("--trainer.accumulate_grad_batches=0", "accumulate_grad_batches=0 write 1 or more"),
    ("--trainer.accumulate_grad_batches=-1", "accumulate_grad_batches=-1 write 1 or more"),
    ("--trainer.devices=-5", "devices=-5 write 1 or more"),
    ("--trainer.devices=0", "devices=0 write 1 or more"),
    ("--trainer.num_nodes=0", "num_nodes=0 write 1 or more"),
    ("--trainer.gradient_clip_val=-1", "gradient_clip_val=-1 write 0 or more"),
    ("--trainer.gradient_clip_val=nan", "--trainer.gradient_clip_val number nan"),
    ("--trainer.gradient_clip_algorithm=foo", "gradient_clip_algorithm foo 'norm'"),
    ("--trainer.log_every_n_steps=-1", "log_every_n_steps=-1 write 0 or more"),
    ("--trainer.limit_val_batches=-1", "limit_val_batches=-1 write 0 or more"),
    ("--trainer.limit_val_batches=2.5", "limit_val_batches=2.5 a whole number"),
    ("--trainer.limit_train_batches=0", "limit_train_batches=0 train nothing"),
    ("--trainer.limit_train_batches=0.5", "limit_train_batches=0.5 a whole number"),
    ("--trainer.overfit_batches=0.1", "overfit_batches=0.1 a whole number"),
    ("--trainer.num_sanity_val_steps=-2", "num_sanity_val_steps=-2 write -1 or more"),
    ("--trainer.min_steps=10", "min_steps=10 max_steps=4"),
    ("--trainer.max_epochs=3", "max_epochs=3 max_steps"),
    ("--trainer.min_epochs=3", "min_epochs=3 max_steps"),
    ("--trainer.max_time=soon", "soon DD:HH:MM:SS"),
    ("--trainer.precision=bf17", "bf17 bf16-mixed"),
    ("--trainer.accelerator=tpu", "torch_xla"),
    ("--trainer.accelerator=quantum", "quantum cpu"),
    ("--trainer.strategy=foo", "strategy foo"),
    ("--trainer.logger=foo", "--trainer.logger=foo is no logger. Write true, CSVLogger"),
    ("--trainer.logger=5", "--trainer.logger=5 is no logger. Write true"),
    ("--trainer.logger=CSVLoger", "--trainer.logger=CSVLoger is no logger; did you mean 'CSVLogger'?"),
    ("--trainer.logger=torch.nn.Linear", "--trainer.logger=torch.nn.Linear is no logger."),
    ("--trainer.callbacks=nonsense", "--trainer.callbacks=nonsense is no list of callbacks. Write EarlyStopping"),
    ("--trainer.callbacks=[nonsense]", "--trainer.callbacks=['nonsense'] is no list of callbacks. Write"),
    ("--trainer.callbacks=5", "--trainer.callbacks=5 is no list of callbacks."),
    ("--trainer.callbacks=torch.nn.Linear", "--trainer.callbacks=torch.nn.Linear is no list of callbacks."),
    ("--trainer.callbacks=pytorch_lightning.callbacks.EarlyStoping", "has no 'EarlyStoping'; did you 'EarlyStopping'?"),
    (
        '--trainer.callbacks=[{"class_path":"EarlyStopping","init_args":{"mointor":"x"}}]',
        "EarlyStopping no option 'mointor'",
    ),
    ("--trainer.plugins=nonsense", "--trainer.plugins=nonsense is no list of plugins. Write leave it out"),
    ("--trainer.default_root_dir=corpus.txt", "corpus.txt Not a directory check the path"),
    ("--trainer.inference_mode=maybe", "--trainer.inference_mode bool maybe"),
    ("--trainer", "--trainer expected one argument"),
    ("--data.block_size=0", "block_size=0 write 1 or more"),
    ("--data.block_size=9999999", "block_size=9999999 too few smaller"),
    ("--data.batch_size=-1", "batch_size=-1 write 1 or more"),
    ("--data.batch_size=99999999999", "batch_size=99999999999 GiB"),
    ("--data.seed=-1", "seed=-1 write 0 or more"),
    ("--data.num_workers=-1", "num_workers=-1 write 0 or more"),
    ("--data.vocab_size=0", "vocab_size=0 1 to 1048576"),
    ("--data.vocab_size=99999999999", "vocab_size=99999999999 1 to 1048576"),
    ("--data.corpus=", "corpus='' is empty write a name"),
    ("--data.corpus=nope.txt", "corpus='nope.txt' is not there check the path"),
    ("--data.corpus=sotuu", "corpus='sotuu' did you mean 'sotu'"),
    ("--data.corpus=empty.txt", "empty.txt no text"),
    ("--data.corpus=binary.txt", "binary.txt not UTF-8"),
    ("--data.corpus=empty", "corpus='empty' nothing to read .jsonl"),
    ("--data.corpus=broken.jsonl", "broken.jsonl not JSON"),
    ("--data.corpus=numbers.jsonl", "numbers.jsonl text_field='text' holds text"),
    ("--data.corpus=bodies.jsonl", "bodies.jsonl text_field='text' body"),
    ("--data.corpus=numbers.parquet", "numbers.parquet text_field='text' (a)"),
    ("--data.tokenizer=bpee", "tokenizer='bpee' did you mean 'bpe'"),
    ("--data.tokenizer=nope.json", "tokenizer='nope.json' is not a file"),
    ("--data.tokenizer=corpus.txt", "corpus.txt not a tokenizer.json"),
    ("--data.tokenizer=other.ckpt", "other.ckpt without a tokenizer"),
    ("--data.cache_dir=corpus.txt", "corpus.txt Not a directory name another folder"),
    ("--config=nope.yaml", "nope.yaml does not exist"),
    ("--config=empty", "empty not a file"),
    ("--config=empty.txt", "config='empty.txt' has no keys"),
    ("--config=list.yaml", "config='list.yaml' has no keys"),
    ("--config=binary.txt", "config='binary.txt' not UTF-8"),
    ("--config=broken.yaml", "config='broken.yaml' not right"),
    ("--config=twice.yaml", "config='twice.yaml' 'model' stands twice"),
    ("--config=number.yaml", "config='number.yaml' model: 5 no mapping"),
    ("--config=null.yaml", "config='null.yaml' data: None no mapping"),
    ("--config=unknown.yaml", "no option --modle.lr did you mean --model.lr"),
    ("--config=code.yaml", "config='code.yaml' not right"),
    ("--ckpt_path=nope.ckpt", "ckpt_path='nope.ckpt' is no file"),
    ("--ckpt_path=empty", "ckpt_path='empty' is no file"),
    ("--ckpt_path=empty.txt", "ckpt_path='empty.txt' no checkpoint"),
    ("--ckpt_path=truncated.ckpt", "ckpt_path='truncated.ckpt' no checkpoint"),
    ("--ckpt_path=other.ckpt", "ckpt_path='other.ckpt' no checkpoint"),
    ("--ckpt_path=weights.safetensors", "ckpt_path='weights.safetensors' no checkpoint"),
    ("--ckpt_path=no_optimizer.ckpt", "ckpt_path='no_optimizer.ckpt' no optimizer"),
    ("--ckpt_path=no_step.ckpt", "ckpt_path='no_step.ckpt' no checkpoint"),
    (f"--ckpt_path={CHECKPOINT} --trainer.max_steps=1", "step 4 max_steps=1"),
    ("--ckpt_path=less_weights.ckpt --trainer.max_steps=9", "ckpt_path='less_weights.ckpt' lacks model.embed.weight"),
    ("--ckpt_path=other_shapes.ckpt --trainer.max_steps=9", "other_shapes.ckpt model.embed.weight (3x32, not 257x32)"),
    ("--ckpt_path=other_moments.ckpt --trainer.max_steps=9", "ckpt_path optimizer other weights shapes"),
    ("--init_from=less_weights.ckpt", "init_from='less_weights.ckpt' lacks embed.weight"),
    ("--init_from=other_shapes.ckpt", "init_from='other_shapes.ckpt' embed.weight (3x32, not 257x32)"),
    ("--init_from=more_weights.ckpt", "init_from='more_weights.ckpt' also has embed.bias"),
    ("--modle.lr=1", "no option --modle.lr did you mean --model.lr"),
    ("word", "unrecognized word"),
]

# Whole command lines; \udcff is what Python reads for a byte that is not UTF-8.
COMMANDS = [
    ("fitt", "no command 'fitt' did you mean 'fit'"),
    ("validate", "validate --ckpt_path"),
    (f"validate --ckpt_path={CHECKPOINT} --model.dim=64", "model.dim=64 contradicts 32"),
    (f"test --ckpt_path={CHECKPOINT} --contexts=[1]", "contexts=[1] write 128 or more"),
    (f"test --ckpt_path={CHECKPOINT} --contexts=[999999]", "contexts=999999 too few"),
    (f"test --ckpt_path={CHECKPOINT} --contexts=[128] --corpora=[nope]", "corpus='nope' is not known"),
    (f"test --ckpt_path={CHECKPOINT} --contexts=[128] --max_tokens=0", "max_tokens=0 write 1 or more"),
    (f"test --ckpt_path={CHECKPOINT} --split=train", "--split 'validation' train"),
    ("generate --ckpt_path=truncated.ckpt", "ckpt_path='truncated.ckpt' no checkpoint"),
    ("generate --ckpt_path=no_step.ckpt", "ckpt_path='no_step.ckpt' no checkpoint"),
    ("validate --ckpt_path=less_weights.ckpt", "ckpt_path weights of its own model embed.weight"),
    ("fit --trainer.strategy=ddp_spawn", "strategy='ddp_spawn' ddp"),
    ("generate --ckpt_path=less_weights.ckpt", "ckpt_path='less_weights.ckpt' weights embed.weight"),
    (f"generate --ckpt_path={CHECKPOINT} --temperature=1e-45", "temperature=1e-45 write 0"),
    (f"generate --ckpt_path={CHECKPOINT} --temperature=-1", "temperature=-1.0 write 0"),
    (f"generate --ckpt_path={CHECKPOINT} --temperature=nan", "--temperature float nan"),
    (f"generate --ckpt_path={CHECKPOINT} --temperature=1e400", "temperature=inf write 0"),
    (f"generate --ckpt_path={CHECKPOINT} --top_k=0", "top_k=0 write 1 or more"),
    (f"generate --ckpt_path={CHECKPOINT} --top_p=2", "top_p=2.0 up to 1"),
    (f"generate --ckpt_path={CHECKPOINT} --max_tokens=-1", "max_tokens=-1 write 0 or more"),
    (f"generate --ckpt_path={CHECKPOINT} --max_tokens=x", "--max_tokens int x"),
    (f"generate --ckpt_path={CHECKPOINT} --seed=-1", "seed=-1 write 0 to"),
    (f"generate --ckpt_path={CHECKPOINT} --seed=99999999999999999999", "seed=99999999999999999999 write 0 to"),
    (f"generate --ckpt_path={CHECKPOINT} --prompt=\udcff", "prompt='\\udcff' not UTF-8"),
    (f"generate --ckpt_path={CHECKPOINT} --stop=\udcff", "stop='\\udcff' not UTF-8"),
    (f"generate --ckpt_path={CHECKPOINT} --stop=", "stop='' leave it out"),
    (f"generate --ckpt_path={CHECKPOINT} --accelerator=meta", "accelerator='meta' write auto"),
    (f"generate --ckpt_path={CHECKPOINT} --promt=x", "no option --promt did you mean --prompt"),
    ("benchmark", "phase"),
    ("benchmark fly", "phase 'train' fly"),
    ("benchmark train --lengths=[]", "lengths=[] write at least one"),
    ("benchmark train --lengths=[0]", "lengths=0 write 1 or more"),
    ("benchmark train --lengths=[100000000]", "lengths=[100000000] 16,777,216 or less"),
    ("benchmark train --batch_sizes=[99999999]", "batch_sizes=[99999999] 16,777,216 or less"),
    ("benchmark train --dim=0", "dim=0 write 1 or more"),
    ("benchmark train --dim=100000000", "dim=100000000 GiB"),
    ("benchmark train --depth=-1", "depth=-1 write 1 or more"),
    ("benchmark train --depth=1000000000 --whole_model=true", "depth=1000000000 GiB"),
    ("benchmark train --rounds=1000000000", "rounds=1000000000 write 1 to 1000"),
    ("benchmark train --repeats=-1", "repeats=-1 write 1 to 1000"),
    ("benchmark train --dtype=float8", "--dtype 'bfloat16' float8"),
    ("benchmark train --mixers=[retentoin]", "No mixer did you mean 'retention'"),
    ("benchmark train --mixers=[]", "mixers=[] write at least one"),
    ("benchmark train --accelerator=foo", "accelerator='foo' write auto"),
    (
        "benchmark train --mixers=[retention] --dim=16 --peers=false --root=corpus.txt",
        "corpus.txt Not a directory check the path",
    ),
    ("evaluate", "tasks"),
    ("compare", "study"),
    ("compare nope.yaml", "study='nope.yaml' is no file"),
    ("compare empty", "study='empty' is no file"),
    ("compare empty.txt", "study='empty.txt' has no keys"),
    ("compare binary.txt", "study='binary.txt' not UTF-8"),
    ("compare twice.yaml", "study='twice.yaml' 'model' stands twice"),
    ("compare number.yaml", "study='number.yaml' 'model' is no part of a study rows and fit"),
    ("compare study.yaml --rows=[nope]", "rows has 'nope' write some of RetNet"),
    ("compare study.yaml --rows=[]", "rows=[] write at least one"),
    ("compare study.yaml --seeds=[5]", "seeds has 5 write some of [0, 1]"),
    ("compare study.yaml --seeds=[0,0]", "seeds=[0, 0] 0 twice"),
    ("compare study.yaml --accelerator=foo", "accelerator='foo' write auto"),
]


def prepare() -> None:
    """Writes the files that the tables name into the current folder, in which a small run has been trained."""
    write_text(Path("other.txt"), words=400)
    Path("empty").mkdir()
    Path("empty.txt").touch()
    Path("binary.txt").write_bytes(b"\xff\xfe\x00\x80" * 100)
    for name, content in {
        "list.yaml": "- 1\n- 2\n",
        "broken.yaml": "model: [",
        "twice.yaml": "model: {lr: 1.0}\nmodel: {dim: 16}\n",
        "number.yaml": "model: 5\n",
        "null.yaml": "data: null\n",
        "unknown.yaml": "modle: {lr: 1.0}\n",
        "code.yaml": "!!python/object/apply:os.system ['touch ran']\n",
        "study.yaml": yaml.safe_dump(STUDY),
        "broken.jsonl": "{not json\n",
        "numbers.jsonl": '{"text": 5}\n',
        "bodies.jsonl": '{"body": "some text"}\n',
    }.items():
        Path(name).write_text(content, encoding="utf-8")
    pd.DataFrame({"a": [1, 2]}).to_parquet("numbers.parquet")
    save_file({"weight": np.zeros(2)}, "weights.safetensors")
    whole = Path(CHECKPOINT).read_bytes()
    Path("truncated.ckpt").write_bytes(whole[: len(whole) // 2])
    torch.save({"state_dict": {}, "epoch": 1}, "other.ckpt")
    for name, without in (("no_optimizer", "optimizer_states"), ("no_step", "global_step")):
        content = torch.load(CHECKPOINT, weights_only=True)
        del content[without]
        torch.save(content, f"{name}.ckpt")
    name, content = "model.embed.weight", torch.load(CHECKPOINT, weights_only=True)
    weights, moments = content["state_dict"], content["optimizer_states"][0]["state"]
    less = {other: weight for other, weight in weights.items() if other != name}
    torch.save({**content, "state_dict": less}, "less_weights.ckpt")
    torch.save({**content, "state_dict": {**less, name: torch.zeros(3, 32)}}, "other_shapes.ckpt")
    torch.save({**content, "state_dict": {**weights, "model.embed.bias": torch.zeros(3)}}, "more_weights.ckpt")
    moments[0]["exp_avg"] = torch.zeros(3)
    torch.save(content, "other_moments.ckpt")
