"""The command `evaluate`: scores a checkpoint on tasks of EleutherAI's lm-evaluation-harness."""

from importlib.util import find_spec

from lit_modules.training.precision import device
from mixers.checks import MissingFileError


def evaluate(
    *,
    tasks: list[str],
    ckpt_path: str = "last",
    batch_size: int = 8,
    max_length: int | None = None,
    num_fewshot: int | None = None,
    limit: int | None = None,
    include_path: str | None = None,
    accelerator: str = "auto",
    root: str = "runs",
) -> None:
    """Scores a checkpoint on tasks of lm-evaluation-harness.

    Args:
        tasks: Names of tasks, such as [lambada_openai,piqa].
        ckpt_path: Checkpoint of the model; `last` is the newest of all runs.
        batch_size: Requests at once.
        max_length: Most tokens that are read at once; by default all there are.
        num_fewshot: Examples before each question; by default as the task has it.
        limit: Questions of each task; by default all.
        include_path: A folder with tasks of your own.
        accelerator: The hardware to run on: `auto`, `cpu`, `gpu` or `mps`.
        root: The folder of all runs.
    """
    if find_spec("lm_eval") is None:
        raise MissingFileError('evaluate needs lm-evaluation-harness: pip install "lit-mixers[eval]".')
    from lm_eval import simple_evaluate  # an extra, and slow to import
    from lm_eval.tasks import TaskManager
    from lm_eval.utils import make_table

    from lit_modules.commands.harness import HarnessLM

    where = str(device(accelerator))
    model = HarnessLM(ckpt_path, root=root, device=where, batch_size=batch_size, max_length=max_length)
    manager = TaskManager(include_path=include_path)
    print(make_table(simple_evaluate(model, tasks=tasks, num_fewshot=num_fewshot, limit=limit, task_manager=manager)))
