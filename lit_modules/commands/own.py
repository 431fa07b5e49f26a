"""The commands that Lightning lacks, as methods of the trainer: each a few lines around what works without it."""

import pytorch_lightning as pl

from lit_modules.commands import benchmark
from lit_modules.commands.benchmark import Dtype
from lit_modules.evaluation.completion import Sampling, complete, stream
from lit_modules.training import checkpoint
from mixers.benchmark import Phase
from mixers.model import MixerFactory


class Commands(pl.Trainer):
    """Lightning's trainer with `generate`, `benchmark` and `compare`."""

    def generate(
        self,
        ckpt_path: str,
        prompt: list[str] | None = None,
        *,
        max_tokens: int = 200,
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        stop: list[str] | None = None,
    ) -> None:
        """Continues texts, with the model and the tokenizer of a checkpoint.

        Args:
            ckpt_path: Checkpoint of the model; `last` is the newest of all runs.
            prompt: Text to continue; without any, the model starts a new one.
            max_tokens: Most tokens to add to a text.
            temperature: How freely tokens are drawn: 0 always takes the likeliest, 1 draws as the model predicts.
            top_k: Draw from this many of the likeliest tokens only.
            top_p: Draw from the likeliest tokens that together have this probability only.
            seed: Seed of the random numbers, for the same text again.
            stop: Strings that end a text just before them.
        """
        options = Sampling(max_tokens, temperature, top_k, top_p, seed, tuple(stop or []))
        model, tokenizer = checkpoint.load_for_text(checkpoint.find(ckpt_path, self.default_root_dir))
        model = model.to(self.strategy.root_device).eval()
        match prompt or [""]:
            case [only]:
                print(only, end="", flush=True)
                for piece in stream(model, tokenizer, only, options):
                    print(piece, end="", flush=True)
                print()
            case several:
                for start, text in zip(several, complete(model, tokenizer, several, options), strict=True):
                    print(f"{start}{text}\n")

    def benchmark(
        self,
        what: Phase,
        *,
        mixers: list[MixerFactory] | None = None,
        lengths: list[int] = [512, 1024, 2048],  # noqa: B006  (jsonargparse shows and copies it)
        batch_sizes: list[int] = [1],  # noqa: B006
        dim: int = 1024,
        depth: int = 16,
        vocab_size: int = 50257,
        whole_model: bool = False,
        dtype: Dtype = "float32",
        compile: bool = False,
        peers: bool = True,
        rounds: int = 3,
        repeats: int = 3,
    ) -> None:
        """Measures time and memory by length, of one layer or the whole model.

        Args:
            what: `train` for a training step, `prefill` for reading a prompt, `decode` for one more token after it.
            mixers: The mixers to measure; by default all.
            lengths: Tokens trained on or read.
            batch_sizes: Sequences at once; each is measured at each length.
            dim: Width.
            depth: Number of blocks of the whole model.
            vocab_size: Number of distinct tokens of the whole model.
            whole_model: Whether to measure the language model instead of one layer.
            dtype: Number format; in training, half precision means autocast over float32 weights.
            compile: Whether torch.compile comes first.
            peers: Whether to measure other people's layers and models, too, as far as they are installed.
            rounds: How often each mixer gets its turn at a length.
            repeats: Timed runs in a turn.
        """
        benchmark.benchmark(
            what,
            mixers=mixers,
            lengths=lengths,
            batch_sizes=batch_sizes,
            dim=dim,
            depth=depth,
            vocab_size=vocab_size,
            whole_model=whole_model,
            dtype=dtype,
            compile=compile,
            peers=peers,
            rounds=rounds,
            repeats=repeats,
            accelerator=self.strategy.root_device.type,
            root=str(self.default_root_dir),
        )

    def compare(
        self,
        study: str,
        *,
        folder: str | None = None,
        rows: list[str] | None = None,
        seeds: list[int] | None = None,
    ) -> None:
        """Trains and tests every row of a study with every seed, and writes a report of it.

        Phase is finished already is left as it is, and what was begun goes on, so it can be stopped at any moment. Two
        of these at once share the work.

        Args:
            study: The study's YAML file: rows, seeds, and what all runs share.
            folder: Where to keep everything; by default runs/compare/ and the file's name.
            rows: Do these rows only.
            seeds: Do these seeds only.
        """
        from lit_modules.commands.compare.command import compare  # reads and draws with what no other command needs

        compare(study, folder=folder, rows=rows, seeds=seeds, accelerator=self.strategy.root_device.type)
