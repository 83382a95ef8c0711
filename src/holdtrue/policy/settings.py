"""Settings of policy optimisation: what ``holdtrue rl`` reads, and what a run keeps in ``settings.yaml``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from holdtrue import kinds
from holdtrue.errors import SettingsError
from holdtrue.policy.decoding import Decoding
from holdtrue.policy.shaping import Shaping
from holdtrue.settings import LoraSettings, Section, build_section


class PolicySettings(Section):
    """The model that is optimised, and what it is compared with."""

    path: str
    """Folder (or hub name) of a causal LM, of an adapter on one, or of a run that trained one."""
    reference: str | None = None
    """Causal LM that drift is measured from, and whose answers give rewards their scale and the monitor what
    is usual. By default the policy as it is loaded."""
    chat_template_path: str | None = None
    """Jinja file that replaces the model's chat template. A model without any gets the default ``plain``."""
    lora: LoraSettings | None = None
    """Train low-rank adapters instead of every weight; the reference is then by default the model without
    them."""

    @model_validator(mode="after")
    def _no_dropout(self) -> PolicySettings:
        if self.lora is not None and self.lora.dropout:
            raise ValueError("lora.dropout is 0 here: what is trained must be the policy that sampled")
        return self


class PromptSettings(Section):
    """Where prompts come from, and how they are read."""

    prompts: list[str] = Field(default=[])
    """Files (JSONL, JSON, Parquet) or folders of them: rows with ``prompt`` (text or messages), or rows of
    any layout holdtrue reads, of which the prompt is taken."""
    eval_fraction: float = Field(0.0, ge=0, lt=1)
    """Share of prompts (by hash of the prompt) that is never trained on, only evaluated on."""
    eval_prompts: int = Field(64, gt=0)
    """Most held-out prompts an evaluation answers."""
    plain_text: Literal["chat", "raw"] = "chat"
    """Plain strings: ``chat`` makes a user turn of them; ``raw`` lets the policy continue them as they
    stand, after the BOS its tokenizer adds."""


class RewardSettings(Section):
    """One part of the reward: a model or a function."""

    model: str | None = None
    """Reward model: a folder or run of holdtrue (also an ensemble or an implicit reward), or a folder of any
    reward model holdtrue reads. One that compares answers gives an answer's win rate against the others of
    its group, on held-out prompts against an answer of the reference."""
    function: str | None = None
    """``file.py:name`` of a Python function ``f(prompts, texts, completion_ids) -> list of numbers``, one for
    each answer. Texts show special tokens; None or NaN leaves the answer out."""
    weight: float = 1.0
    """What it counts beside the other parts."""
    whiten: bool = True
    """Count in standard deviations of this reward on answers of the reference, with mean 0 there, so that
    one KL coefficient fits every reward."""
    clip: float | None = Field(None, gt=0)
    """Largest size after whitening."""
    timeout: float = Field(300.0, gt=0)
    """Seconds a function may take for a step's answers."""

    @classmethod
    def named(cls, name: str) -> RewardSettings:
        """The reward that a command line names: a function where it is ``file.py:name``, or a model.

        Raises:
            SettingsError: it is a file of Python without a name.
        """
        if name.endswith(".py"):
            raise SettingsError(f"reward {name} is no model; a function in it is {name}:NAME")
        return cls(function=name) if _names_function(name) else cls(model=name)

    @model_validator(mode="after")
    def _one_source(self) -> RewardSettings:
        if (self.model is None) == (self.function is None):
            raise ValueError("a reward is a model or a function: give one of the two")
        if self.function is not None and not _names_function(self.function):
            raise ValueError(f"function is file.py:name, got {self.function!r}")
        return self

    @property
    def name(self) -> str:
        """What it is called in errors."""
        return self.model or str(self.function)


def _names_function(name: str) -> bool:
    """Whether a name is that of a Python function, ``file.py:name``."""
    return name.rpartition(":")[0].endswith(".py")


class GuardSettings(Section):
    """What answers that loop or break off at a control token are worth, and when the run is ended."""

    on_hit: Literal["exclude", "penalise", "none"] = "exclude"
    """``exclude``: they move no baseline and nothing is learnt from them. ``penalise``: their reward is
    ``penalty``. ``none``: they keep their reward."""
    penalty: float = -1.0
    """Reward of a penalised answer, on the scale of the whitened reward."""
    no_end_reward: float | None = None
    """Reward of an answer without its end token, on the same scale (arXiv 2403.17031: -1), in place of all
    parts and of what ``shaping`` adds; null leaves it the reward it has."""
    on_alarm: Literal["warn", "stop", "rollback"] = "warn"
    """What an alarm of severity ``fail`` does beside being told. ``stop`` ends the run. ``rollback`` takes
    the policy back to the last checkpoint from before the change began and goes on at half the learning rate,
    with other prompts and draws. The checkpoints it may need are kept."""
    max_rollbacks: int = Field(3, gt=0)
    """Rollbacks after which a run goes on. The next grave alarm takes the policy back once more and ends the
    run, so what is saved is the last policy that was well."""
    calibration: int = Field(128, ge=2)
    """Answers of the reference that whitening and the monitor are calibrated on; the monitor needs 64."""


class CurriculumSettings(Section):
    """Prompts whose answers get the same reward, so that nothing is learnt, are drawn less often."""

    floor: float = Field(0.1, gt=0, le=1)
    """How often a prompt whose answers all got the same reward is drawn, beside one whose answers differ as
    usual; none is forgotten."""


class OptimisationSettings(Section):
    """The loop."""

    max_steps: int = Field(100, gt=0)
    """Rounds of sampling and learning; those that a rollback takes back do not count."""
    prompts_per_step: int = Field(8, gt=0)
    """Prompts answered in a step."""
    group: int = Field(4, gt=0)
    """Answers to each prompt."""
    updates: int = Field(1, gt=0)
    """Optimiser updates on the answers of a step, all of them in each."""
    processes: int = Field(1, gt=0)
    """Processes on this machine (torchrun) that share each step: its prompts to draw and judge, its answers
    to learn from. Under torchrun this is taken from it. The step is that of one process, but for rounding."""
    rows_per_pass: int = Field(16, gt=0)
    """Answers in one forward and backward pass. Bounds memory and does not change the result."""
    learning_rate: float | None = Field(None, gt=0)
    """Peak rate. By default 0.004 / width of the model (1e-6 at 4096), ten times that with LoRA."""
    lr_scheduler_type: Literal["constant", "linear", "cosine", "step", "cyclical"] = "constant"
    """Course of the rate after warm-up, over the updates of the run."""
    warmup_ratio: float = Field(0.0, ge=0, lt=1)
    """Share of the updates over which the rate rises linearly to its peak."""
    lr_step_size: float = Field(0.3, gt=0, le=1)
    """``step``: share of the updates between two decays. ``cyclical``: length of a cycle as a share."""
    lr_gamma: float = Field(0.3, gt=0, lt=1)
    """``step``: factor of each decay. ``cyclical``: lowest rate as a share of the peak."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW's decoupled decay, of matrices."""
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    """Decay of the first moment."""
    adam_beta2: float = Field(0.99, ge=0, lt=1)
    """Decay of the second moment."""
    max_grad_norm: float = Field(1.0, ge=0)
    """Gradients are scaled down to this norm; 0 leaves them."""
    eval_steps: int | None = Field(None, gt=0)
    """Steps between evaluations on held-out prompts. By default ten times a run."""
    save_steps: int | None = Field(None, gt=0)
    """Steps between checkpoints. By default ten times a run."""
    save_total_limit: int = Field(2, gt=0)
    """Checkpoints kept (besides the best one and those for a rollback)."""
    load_best_model_at_end: bool = False
    """The final policy is that of the evaluation with the best ``score`` on held-out prompts, not that of
    the last step."""
    early_stopping_patience: int | None = Field(None, gt=0)
    """Stop after this many evaluations without a better one."""
    curriculum: CurriculumSettings | None = None
    """Which prompts a step answers. By default each in its turn."""
    max_nonfinite_steps: int = Field(5, gt=0)
    """Updates with a non-finite loss or gradient are skipped and counted; after this many the run stops."""


class CriticSettings(Section):
    """The critic, for algorithms that have one: a model that says what an answer will be worth."""

    path: str | None = None
    """Folder of a decoder it starts from, with the policy's tokens and a fresh head. By default it starts
    from the first of ``rewards``, head and all, where that is such a decoder, else from the policy."""
    learning_rate: float | None = Field(None, gt=0)
    """Peak rate; its course is the policy's. By default ten times the policy's: a critic that lags behind
    explains nothing."""

    def rate(self, policy: float) -> float:
        """Its peak rate beside a policy of this one."""
        return self.learning_rate or 10 * policy


class RLSettings(Section):
    """Everything a policy optimisation is made of."""

    task: Literal["rl"] = "rl"
    """Tells these settings from those of a reward model."""
    policy: PolicySettings
    data: PromptSettings = PromptSettings()
    rewards: list[RewardSettings] = Field(default=[])
    """Parts of the reward, added up by their weights."""
    shaping: Shaping = Shaping()
    algorithm: kinds.chosen("holdtrue.policy.algorithms", "rloo") = Field(  # type: ignore[valid-type]
        default="rloo", validate_default=True
    )
    """How advantages and loss are made (``holdtrue list algorithms``): a name, or ``{kind: name, ...}`` with
    its fields."""
    critic: CriticSettings = CriticSettings()
    decoding: Decoding = Decoding()
    """How answers are drawn, and when the loop guard ends one."""
    guard: GuardSettings = GuardSettings()
    training: OptimisationSettings = OptimisationSettings()
    seed: int = Field(42, ge=0)
    """Seed of the order of prompts, the draws and fresh adapters."""

    @model_validator(mode="after")
    def _can_be_computed(self) -> RLSettings:
        lacking = self.algorithm.needs - {"reference_logprobs", "values", "entropy"}
        if lacking:
            said = " and ".join(sorted(lacking))
            raise ValueError(f"algorithm {self.algorithm.name()} needs {said}, which is not computed here")
        if "values" not in self.algorithm.needs and self.critic != CriticSettings():
            raise ValueError(
                f"algorithm {self.algorithm.name()} has no critic; leave out critic, or take ppo"
            )
        if self.algorithm.name() not in ("reinforce_pp", "ppo") and self.training.group < 2:
            raise ValueError(f"algorithm {self.algorithm.name()} needs training.group of 2 or more")
        cache, longest = self.shaping.overlong_cache, self.decoding.max_new_tokens
        if cache is not None and cache > longest:
            raise ValueError(
                f"shaping.overlong_cache {cache} is above decoding.max_new_tokens, which is {longest}"
            )
        if self.training.curriculum is not None and self.training.group < 2:
            raise ValueError("training.curriculum compares answers to a prompt: training.group of 2 or more")
        if self.asks_for_the_best and not self.data.eval_fraction:
            raise ValueError(
                f"{self.asks_for_the_best} needs held-out prompts: set data.eval_fraction above 0"
            )
        return self

    @property
    def asks_for_the_best(self) -> str | None:
        """The setting that needs evaluations on held-out prompts, if one is made."""
        training = self.training
        if training.load_best_model_at_end:
            return "training.load_best_model_at_end"
        return "training.early_stopping_patience" if training.early_stopping_patience else None

    def dump(self) -> dict[str, Any]:
        """Plain values, as written to ``settings.yaml``."""
        return self.model_dump(mode="json")


def build(values: Mapping[str, Any]) -> RLSettings:
    """Typed settings from plain values.

    Raises:
        SettingsError: unknown key (names the nearest), wrong type or out of range (says what was seen).
    """
    return build_section(values, RLSettings)
