"""The imitation recipe: what is trained, on which data, how, and how it is judged."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pydantic

from policies.spec import InputError
from robopolicy.config import Config, apply_overrides, find_recipe, read_yaml, validate

PositiveInt = pydantic.PositiveInt


class DataConfig(Config):
    """Where the demonstrations are, and how to make them when they are not there yet."""

    path: str = "data/{task}"  # {task} is the task's name with / as -
    episodes: PositiveInt | None = None  # use the first N episodes; None: all
    collect: PositiveInt | None = None  # collect this many with the scripted expert when the path does not exist
    workers: PositiveInt = 2  # processes that collect
    cache: str | None = None  # folder for the memory-mapped arrays; None: inside the data set, or the user's cache folder if read-only


class EnvConfig(Config):
    """Which observations the simulated world gives."""

    observations: Literal["state", "image", "state+image"] = "state"
    image_size: PositiveInt = 96  # px, height and width
    max_episode_steps: PositiveInt | None = None  # None: the task's own


class OptimizerConfig(Config):
    """AdamW with linear warm-up and cosine decay to zero (Diffusion Policy's schedule)."""

    lr: pydantic.PositiveFloat = 1e-4
    betas: tuple[float, float] = (0.95, 0.999)
    weight_decay: pydantic.NonNegativeFloat = 1e-6
    warmup_steps: pydantic.NonNegativeInt = 500
    gradient_clip: pydantic.PositiveFloat | None = 1.0  # global norm


class EmaConfig(Config):
    """Exponential moving average of the weights: decay_t = clip(1 - (1 + t / inv_gamma)^-power, 0, max), t = step - 1."""

    enabled: bool = True
    power: pydantic.PositiveFloat = 0.75
    inv_gamma: pydantic.PositiveFloat = 1.0
    max_decay: pydantic.confloat(ge=0, lt=1) = 0.9999  # type: ignore[valid-type]


class TrainingConfig(Config):
    """The loop: how long, how much at once, what is written when."""

    steps: PositiveInt = 5000
    batch_size: PositiveInt = 256  # total over all processes
    optimizer: OptimizerConfig = OptimizerConfig()
    ema: EmaConfig = EmaConfig()
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = "auto"  # auto: bf16 where there is a GPU
    threads: PositiveInt | None = 1  # torch threads a process; None: all cores
    log_every: PositiveInt = 50
    checkpoint_every: PositiveInt = 1000
    keep_checkpoints: PositiveInt = 5
    evaluate_every: pydantic.NonNegativeInt = 0  # 0: never during training
    compile: bool = False  # torch.compile


class EvaluationConfig(Config):
    """How success is measured; see the design's section on evaluation."""

    episodes: PositiveInt = 50
    block: PositiveInt = 50  # B: episode i runs in row i mod B of block i div B
    workers: PositiveInt = 1
    threads: PositiveInt = 1  # torch threads a worker
    seed: int = 0  # offset inside the selection or the report seeds, and the key of the policy's noise
    videos: pydantic.NonNegativeInt = 0  # of the best and of the worst episodes, each


class Recipe(Config):
    """One imitation experiment."""

    task: str
    seed: int = 0
    output: str = "runs/{task}-{policy}-seed{seed}"
    init: str | None = None  # checkpoint to fine-tune from
    data: DataConfig = DataConfig()
    env: EnvConfig = EnvConfig()
    policy: pydantic.SerializeAsAny[pydantic.BaseModel]
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @pydantic.field_validator("policy", mode="before")
    @classmethod
    def _typed_policy(cls, value: Any) -> Any:
        if isinstance(value, pydantic.BaseModel):
            return value
        if not isinstance(value, dict) or not isinstance(value.get("type"), str):
            raise ValueError("expected a section with a 'type', e.g. policy: {type: flow}")
        from policies.registry import config_class

        return config_class(value["type"]).model_validate({k: v for k, v in value.items() if k != "type"})

    @property
    def policy_type(self) -> str:
        """Name of the policy: the module ``policies/NAME.py``."""
        return type(self.policy).__module__.rpartition(".")[2]

    def filled(self, text: str) -> str:
        """Replace ``{task}``, ``{policy}`` and ``{seed}`` in a path."""
        return text.format(task=self.task.replace("/", "-"), policy=self.policy_type, seed=self.seed)

    def to_dict(self) -> dict[str, Any]:
        """Return a YAML-ready mapping from which the same recipe is built again."""
        out = self.model_dump(mode="json")
        out["policy"] = {"type": self.policy_type, **out["policy"]}
        return out


def recipe_from_dict(values: dict[str, Any], source: str) -> Recipe:
    """Build a recipe; mistakes inside ``policy`` name the policy's own keys. Raises InputError."""
    policy = values.get("policy")
    if isinstance(policy, dict) and isinstance(policy.get("type"), str):
        from policies.registry import config_class

        model = config_class(policy["type"])
        try:
            built = validate(model, {k: v for k, v in policy.items() if k != "type"}, "policy")
        except InputError as error:
            raise InputError(f"{source}: {error} (policy type {policy['type']!r})") from None
        values = {**values, "policy": built}
    return validate(Recipe, values, source)


def load_recipe(name: str, overrides: list[str] | tuple[str, ...] = ()) -> Recipe:
    """Read a recipe by path or installed name and apply ``key=value`` overrides. Raises InputError."""
    path: Path = find_recipe(name)
    return recipe_from_dict(apply_overrides(read_yaml(path), overrides), str(path))
