"""The command `generate`: continues texts with the model of a checkpoint."""

from pathlib import Path

from lit_modules.commands.parser import Repeated
from lit_modules.evaluation import saved_state
from lit_modules.evaluation.completion import Sampling, complete, stream_completion
from lit_modules.training import checkpoint
from lit_modules.training.precision import device
from mixers.checks import UsageError


def generate(
    *,
    ckpt_path: str = "last",
    prompt: Repeated | None = None,
    max_tokens: int = 200,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop: Repeated | None = None,
    chat: bool = False,
    load_state: str | None = None,
    save_state: str | None = None,
    accelerator: str = "auto",
    root: str = "runs",
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
        stop: Text that ends a continuation just before it.
        chat: Whether prompts are messages to a model that was tuned on conversations: each is put into the template
            that the model was tuned with, and only the answer is shown.
        load_state: File of `--save_state`: the prompts follow the text whose reading it keeps, which is not read again.
        save_state: File in which to keep what the model remembers after reading the prompt.
        accelerator: The hardware to run on: `auto`, `cpu`, `gpu` or `mps`.
        root: The folder of all runs.
    """
    for name, given in {"prompt": prompt, "stop": stop}.items():
        for text in given or ():
            check_unicode(text, name)
    texts = prompt or [""]
    if save_state is not None and len(texts) > 1:
        raise UsageError(f"save_state={save_state!r} is for one prompt: write one, or leave it out.")
    options = Sampling(max_tokens, temperature, top_k, top_p, seed, tuple(stop or []))
    if chat:
        if not prompt:
            raise UsageError("chat=True answers a prompt: give one, --prompt=TEXT.")
        template = checkpoint.chat_template(ckpt_path, root=root)
        texts = [template.prompt([{"role": "user", "content": text}]) for text in texts]
    model, tokenizer = checkpoint.load(ckpt_path, root=root)
    model.to(device(accelerator))
    before = saved_state.load(Path(load_state), model) if load_state is not None else None
    if save_state is not None:
        saved_state.save(Path(save_state), model, saved_state.read(model, tokenizer, texts[0], before))
    starts = [""] * len(texts) if chat else texts
    if len(texts) == 1:
        print(starts[0], end="", flush=True)
        for piece in stream_completion(model, tokenizer, texts[0], options, before):
            print(piece, end="", flush=True)
        print()
        return
    for start, text in zip(starts, complete(model, tokenizer, texts, options, before), strict=True):
        print(f"{start}{text}\n")


def check_unicode(text: str, name: str) -> None:
    """Raises UsageError for an argument with bytes that are not UTF-8, which Python reads as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{name}={text!r} has bytes that are not UTF-8: write text in UTF-8.") from error
