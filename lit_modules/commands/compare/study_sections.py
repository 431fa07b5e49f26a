"""The sections of a study's file that are not options of the runs: cost, tuning and budgets."""

from dataclasses import dataclass, field

from lit_modules.commands.benchmark import MOST_RUNS, MOST_TOKENS
from lit_modules.training.schedule import COOLDOWN
from mixers.checks import SEEDS, UsageError, at_least, between


@dataclass(frozen=True)
class CostOptions:
    """How the cost of each row's model is measured, the rows taking turns."""

    lengths: tuple[int, ...] = (256, 512, 1024, 2048)  # of one sequence: memory of training, time of one more token
    rounds: int = 5  # how often each row gets its turn

    def __post_init__(self) -> None:
        at_least(1, rounds=self.rounds, lengths=min(self.lengths, default=0))
        between(1, MOST_RUNS, rounds=self.rounds)
        between(1, MOST_TOKENS, lengths=max(self.lengths))


@dataclass(frozen=True)
class Tuning:
    """The search for each row's options of `model` before the study: at the first budget, on the validation split.

    It begins with all combinations of the values, and goes on to the neighbours of the best until all of them are done,
    so that the best is never on an edge; without `extend` it ends with the combinations of the values.
    """

    grid: dict[str, list[float]]  # at least two values of each option, ascending
    seed: int = 0
    extend: bool = True  # a row that learns nothing has no best, and a search for one would not end
    check_next: list[str] = field(default_factory=list)  # rows whose best and its neighbours are run at the next budget

    def check(self) -> None:
        """Raises UsageError for a grid that cannot be searched."""
        if not self.grid:
            raise UsageError("tuning.grid={} should name options of model, such as lr, with values to try.")
        for name, values in self.grid.items():
            if len(values) < 2 or sorted({*values}) != list(values) or values[0] <= 0:
                raise UsageError(f"tuning.grid.{name}={values} should be two or more numbers above 0, ascending.")
        between(0, SEEDS, **{"tuning.seed": self.seed})


@dataclass(frozen=True)
class Budget:
    """Optimizer steps after which rows are compared: of each a run at a constant rate is cooled down to end there."""

    steps: int
    seeds: int  # the first so many of the study's
    minor_seeds: int | None = None  # for rows that are named in `minor_rows`
    cooldown_steps: int | None = None  # by default a fifth of `steps`

    def check(self) -> None:
        """Raises UsageError for numbers that are out of range."""
        at_least(2, **{"budgets.steps": self.steps})
        at_least(1, **{"budgets.seeds": self.seeds, "budgets.minor_seeds": self.minor_seeds or 1})
        between(1, self.steps - 1, **{"budgets.cooldown_steps": self.cooldown})

    @property
    def cooldown(self) -> int:
        return max(1, self.steps // COOLDOWN) if self.cooldown_steps is None else self.cooldown_steps
