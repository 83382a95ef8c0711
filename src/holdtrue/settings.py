"""Settings: a YAML file and ``--set a.b=c`` overrides, made into typed, frozen objects.

Names are those of transformers' and TRL's settings where these exist. Unknown keys are errors that
name the nearest right one. Nothing here needs torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_origin, get_type_hints

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from holdtrue import kinds
from holdtrue.errors import DataError, SettingsError, nearest, unknown


class Section(BaseModel):
    """A group of settings. Frozen; unknown keys and non-finite numbers are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


S = TypeVar("S", bound=Section)


class LoraSettings(Section):
    """Low-rank adapters (peft). The reward head is always trained and saved in full beside them."""

    r: int = Field(16, gt=0)
    """Rank of the adapters."""
    alpha: float = Field(32.0, gt=0)
    """Scale: the update is multiplied by alpha / r."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the adapters' inputs."""
    target_modules: str | list[str] = "all-linear"
    """Modules that get an adapter: names as peft takes them, or ``all-linear``."""
    merge: bool = False
    """Save the final model with the adapters merged into its weights instead of beside them."""


class ModelSettings(Section):
    """The backbone a reward model is built on."""

    path: str | None = None
    """Folder (or hub name) of a causal LM, a sequence classifier or a reward model saved by holdtrue.
    Without it the embedded support-desk world's tiny decoder is trained from scratch."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type the backbone's weights are held in. The head is float32 in either case."""
    chat_template_path: str | None = None
    """Jinja file that replaces the model's chat template. A model without any gets the default ``plain``."""
    kind: kinds.chosen("holdtrue.reward.kinds", "scalar") | None = None  # type: ignore[valid-type]
    """How the reward is produced (``holdtrue list kinds``). By default as the model was saved, and
    ``scalar`` for one without a head."""
    pool: Literal["auto", "last", "cls", "mean", "max"] = "auto"
    """State the head reads. ``last``: the last token's, for decoders and only for them. ``cls``: what
    transformers' classifier of an encoder reads. ``mean``, ``max``: over all tokens of an encoder, with a
    linear head of ours. ``auto``: as saved, as sentence-transformers says, else ``last`` or ``cls``."""
    input: Literal["auto", "text", "pair"] = "auto"
    """How an encoder is given a conversation: ``pair``, prompt and answer as the tokenizer's two texts, or
    ``text``, all turns as one text. ``auto``: as saved, else ``pair`` where the tokenizer parts two texts.
    Decoders read their chat template."""
    lora: LoraSettings | None = None
    """Train low-rank adapters instead of every weight."""


class DataSettings(Section):
    """What is read, and how it is cut."""

    train: list[str] = []
    """Files (JSONL, JSONL.gz, Parquet), directories, or ``hub:owner/name[:split]``."""
    eval: list[str] = []
    """The same, for validation while training. Without it ``eval_fraction`` of the prompts is held out."""
    eval_fraction: float = Field(0.1, ge=0, lt=1)
    """Share of prompts held out of ``train`` (by hash of the prompt) when ``eval`` is empty."""
    format: str | None = None
    """Layout of the rows (``holdtrue list formats``). By default it is recognised from the columns."""
    columns: dict[str, str] = {}
    """Other names for columns: ``{margin: strength}`` reads the margin from the column ``strength``."""
    transforms: list[kinds.chosen("holdtrue.data.transforms", None)] = []  # type: ignore[valid-type]
    """Changes to the training rows, in order (``holdtrue list transforms``): names, or ``{kind: name, ...}``
    with fields. Held-out rows stay as they are, but for pairs made of ratings."""
    on_bad_row: Literal["quarantine", "strict"] = "quarantine"
    """A row that cannot be read is written to ``rejected.jsonl`` and skipped, or stops the run."""
    plain_text: Literal["chat", "raw"] = "chat"
    """Plain strings: ``chat`` makes prompt and answer a user turn and an assistant turn; ``raw`` feeds them
    as they stand, followed by EOS, without chat template (TRL's way)."""
    max_length: int | None = Field(None, gt=1)
    """Longest conversation in tokens. By default what the model can take."""
    truncation: Literal["drop", "left", "right", "error"] = "drop"
    """What is done with longer ones: left out and counted, cut at one side, or an error."""
    max_answers_per_tree: int = Field(8, gt=1)
    """Most answers of one prompt that share its computation in training. More sharing is faster but puts
    more comparisons of the same prompt into one step."""


Layout = Literal["tree", "packed", "padded"]
"""How a model reads a batch: token trees, whole sequences end to end, or sequences padded to a rectangle."""


class TrainingSettings(Section):
    """The training loop."""

    method: Literal["gradient", "ridge"] = "gradient"
    """``ridge`` leaves the backbone as it is and solves loss ``aspect_regression`` for the head of a model of
    kind ``aspects`` in closed form; the settings of the loop are then without effect."""
    num_train_epochs: float = Field(2.0, gt=0)
    """Passes over the training pairs; a fraction stops inside a pass."""
    max_steps: int = Field(-1, ge=-1)
    """Optimiser steps; overrides ``num_train_epochs`` when positive."""
    train_batch_size: int | None = Field(None, gt=0)
    """Comparisons per optimiser step, over all processes together (default 16). Gradients are accumulated
    over as many forward passes as ``max_tokens_per_pass`` needs, so it does not change memory."""
    per_device_train_batch_size: int | None = Field(None, gt=0)
    """transformers' way to say it: comparisons per step = this x accumulation x processes."""
    gradient_accumulation_steps: int = Field(1, gt=0)
    """Multiplies ``per_device_train_batch_size``."""
    max_tokens_per_pass: int | None = Field(None, gt=0)
    """Unique tokens in one forward and backward pass; a tree is never split. Bounds memory and does not
    change the result. By default 16384 on a GPU, and on the CPU 2048, where more is hardly faster, or 512 for
    models that read padded batches: with like lengths together less of them is padding."""
    learning_rate: float | None = Field(None, gt=0)
    """Peak rate. By default 0.04 / width of the model (1e-5 at 4096), ten times that with LoRA."""
    lr_scheduler_type: Literal["constant", "linear", "cosine", "step", "cyclical"] = "cosine"
    """Course of the rate after warm-up."""
    warmup_ratio: float = Field(0.05, ge=0, lt=1)
    """Share of the steps over which the rate rises linearly to its peak; the first step is not at 0."""
    lr_step_size: float = Field(0.3, gt=0, le=1)
    """``step``: share of the steps between two decays. ``cyclical``: length of a cycle as a share."""
    lr_gamma: float = Field(0.3, gt=0, lt=1)
    """``step``: factor of each decay. ``cyclical``: lowest rate as a share of the peak."""
    weight_decay: float = Field(0.01, ge=0)
    """AdamW's decoupled decay; biases, norms and the head are left out."""
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    """Decay of the first moment."""
    adam_beta2: float = Field(0.99, ge=0, lt=1)
    """Decay of the second moment; below the usual 0.999 because runs are short."""
    max_grad_norm: float = Field(1.0, ge=0)
    """Gradients are scaled down to this norm; 0 leaves them."""
    disable_dropout: bool = True
    """Switch off the model's dropout: it makes rewards of equal answers differ."""
    bf16: bool | None = None
    """bfloat16 autocast with float32 weights and head. By default on where the hardware computes it
    natively and the model is at least 256 wide."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a third more work."""
    logging_steps: int = Field(1, gt=0)
    """Steps between rows of ``metrics.jsonl``."""
    eval_steps: int | None = Field(None, gt=0)
    """Steps between validations. By default ten times a run."""
    save_steps: int | None = Field(None, gt=0)
    """Steps between checkpoints. By default ten times a run."""
    save_total_limit: int = Field(2, gt=0)
    """Checkpoints kept (besides the best one)."""
    load_best_model_at_end: bool = True
    """The final model is the one of the best validation, not of the last step."""
    metric_for_best_model: Literal["loss", "accuracy"] = "loss"
    """Validation metric that decides which is best and when to stop early."""
    early_stopping_patience: int | None = Field(None, gt=0)
    """Stop after this many validations without a better one."""
    max_nonfinite_steps: int = Field(5, gt=0)
    """Steps with a non-finite loss or gradient are skipped and counted; after this many the run stops."""
    report_to: list[Literal["tensorboard", "wandb", "trackio"]] = []
    """Trackers that get the rows of ``metrics.jsonl`` as well."""
    processes: int = Field(1, gt=0)
    """Processes on this machine (torchrun). Under torchrun this is taken from it."""
    parallel: Literal["data", "fsdp"] = "data"
    """``data`` copies the model to each process; ``fsdp`` shards it (FSDP2)."""

    @model_validator(mode="after")
    def _one_way_to_say_the_batch(self) -> TrainingSettings:
        if self.train_batch_size and self.per_device_train_batch_size:
            raise ValueError("give train_batch_size or per_device_train_batch_size, not both")
        if self.gradient_accumulation_steps > 1 and not self.per_device_train_batch_size:
            raise ValueError(
                "gradient_accumulation_steps needs per_device_train_batch_size "
                "(with train_batch_size accumulation follows from max_tokens_per_pass)"
            )
        return self

    def tokens_per_pass(self, device: str, layout: Layout = "tree") -> int:
        """Tokens of one pass on a device (``cpu``, ``cuda``, ``cuda:1``)."""
        on_cpu = 512 if layout == "padded" else 2048
        return self.max_tokens_per_pass or (on_cpu if device == "cpu" else 16384)

    def comparisons_per_step(self, world_size: int) -> int:
        """Comparisons in one optimiser step over all ``world_size`` processes."""
        if self.per_device_train_batch_size:
            return self.per_device_train_batch_size * self.gradient_accumulation_steps * world_size
        return self.train_batch_size or 16


class RidgeSettings(Section):
    """What ``training.method: ridge`` does."""

    intercept: bool = True
    """Fit an offset for each aspect. It is kept in the reward card, since a decoder's head has none; without
    it (as in ArmoRM) plain transformers gives the aspects too."""
    states: str | None = None
    """Folder where the backbone's states are kept and looked for, to be shared by runs. By default ``states``
    in the run."""


class EvaluationSettings(Section):
    """How accuracy and calibration are measured."""

    slices: list[str] = []
    """Metadata columns accuracy is broken down by. By default every column with 2 to 20 values."""
    bins: int = Field(10, gt=1)
    """Bins of the reliability diagram and of the expected calibration error."""
    confidence: float = Field(0.95, gt=0, lt=1)
    """Level of every interval."""
    min_accuracy: float | None = Field(None, ge=0, le=1)
    """Quality gate: the command ends with exit code 4 when accuracy is below."""


class Range(Section):
    """An interval a number is searched in, ends included; whole numbers where the setting takes these."""

    low: float
    """Smallest value."""
    high: float
    """Largest value."""
    log: bool = False
    """Search the logarithm evenly, as suits learning rates."""

    @model_validator(mode="after")
    def _not_empty(self) -> Range:
        if self.low >= self.high:
            raise ValueError(f"low must be below high, got {self.low:g} and {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"log needs low above 0, got {self.low:g}")
        return self


class SweepSettings(Section):
    """``holdtrue sweep``: what is searched, and how. Other commands pass over it."""

    space: dict[str, Range | list[Any]] = {}
    """Settings that are searched: ``training.learning_rate: {low: 1e-5, high: 1e-3, log: true}``, or a list
    of values to choose from, ``training.train_batch_size: [8, 16, 32]``."""
    trials: int = Field(20, gt=0)
    """Trials in all, those that failed or were pruned included."""
    metric: Literal["loss", "accuracy"] = "loss"
    """What is optimised, measured on the held-out pairs with each trial's final model: log loss in nats,
    which no setting of the training loss changes, or accuracy."""
    pruner: Literal["median", "none"] = "median"
    """``median`` stops a trial whose best validation so far is worse than the median of the finished trials
    after as many validations."""
    startup_trials: int = Field(5, gt=0)
    """Trials drawn at random and never pruned, before what they showed is used."""

    @field_validator("space", mode="before")
    @classmethod
    def _ranges_or_lists(cls, space: Any) -> Any:
        for key, values in space.items() if isinstance(space, dict) else ():
            is_range = isinstance(values, Range) or (
                isinstance(values, dict) and {"low", "high"} <= {*values}
            )
            if not is_range and not (isinstance(values, list) and len(values) > 1):
                raise ValueError(
                    f"{key} takes {{low: ..., high: ...}} or a list of two or more values, got {values!r}"
                )
        return space


class Settings(Section):
    """Everything a run is made of."""

    model: ModelSettings = ModelSettings()
    data: DataSettings = DataSettings()
    loss: kinds.chosen("holdtrue.losses", "bradley_terry") = Field(  # type: ignore[valid-type]
        default="bradley_terry", validate_default=True
    )
    """What training minimises: a loss by name, or ``{kind: name, ...}`` with its fields."""
    training: TrainingSettings = TrainingSettings()
    ridge: RidgeSettings = RidgeSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    sweep: SweepSettings | None = None
    """The search that ``holdtrue sweep`` carries out around these settings."""
    seed: int = Field(42, ge=0)
    """Seed of the head, the order of the pairs and dropout."""

    @model_validator(mode="after")
    def _what_ridge_can_do(self) -> Settings:
        if self.training.method == "ridge":
            if self.loss.name() != "aspect_regression":
                raise ValueError(
                    f"training.method ridge solves loss aspect_regression, not {self.loss.name()}"
                )
            if self.model.lora is not None:
                raise ValueError("training.method ridge trains the head alone; leave out model.lora")
            if self.training.processes > 1:
                raise ValueError("training.method ridge takes one process; set training.processes=1")
        return self

    def dump(self) -> dict[str, Any]:
        """Plain values, as written to ``settings.yaml``; :func:`build` of them gives equal settings."""
        return self.model_dump(mode="json")


def build(values: Mapping[str, Any]) -> Settings:
    """Typed settings from plain values.

    Raises:
        SettingsError: unknown key (names the nearest), wrong type or out of range (says what was seen).
    """
    made = build_section(values, Settings)
    if made.sweep is not None:
        _check_space(made.sweep.space, {key: value for key, value in values.items() if key != "sweep"})
    return made


def build_section(values: Mapping[str, Any], section: type[S]) -> S:
    """Typed settings of another root, such as those of fine-tuning; raises as :func:`build`."""
    _refuse_unknown(values, section, "", section)
    # `training:` with nothing below it is None in YAML
    given = {key: value for key, value in values.items() if value is not None}
    try:
        return section(**given)
    except ValidationError as error:
        raise SettingsError(kinds.explain(error, "")) from error


def _check_space(space: Mapping[str, Range | list[Any]], values: Mapping[str, Any]) -> None:
    """Build settings with every value in a list and both ends of every range, the others at their first."""
    options = {key: [i.low, i.high] if isinstance(i, Range) else i for key, i in space.items()}
    first = deepcopy(dict(values))
    try:
        for key, values_of_key in options.items():
            if key.startswith(("sweep", "data.eval")):
                raise SettingsError(f"{key} cannot be searched: trials are compared on the same pairs")
            put(first, key, values_of_key[0])
        build(first)
        for key, values_of_key in options.items():
            for value in values_of_key[1:]:
                put(changed := deepcopy(first), key, value)
                build(changed)
    except SettingsError as error:
        raise SettingsError(f"sweep.space: {error}") from error


def read(path: str | Path | None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Plain values of a YAML settings file with ``a.b=c`` overrides applied; no file gives only these.

    Raises:
        DataError: the file does not exist. SettingsError: it is not a YAML mapping, or an override is
        not of the form ``a.b=c``.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            text = Path(path).read_text(encoding="utf-8")
        except FileNotFoundError:
            raise DataError(f"settings file {path} does not exist") from None
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"settings file {path} cannot be read: {error}") from error
        try:
            loaded = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise SettingsError(f"{path} is not valid YAML: {_what_is_wrong(error)}") from error
        if loaded is not None and not isinstance(loaded, dict):
            raise SettingsError(f"{path} holds a {type(loaded).__name__}, expected a mapping of settings")
        values = loaded or {}
    for override in overrides:
        put(values, *parse_override(override))
    return values


def _what_is_wrong(error: yaml.YAMLError) -> str:
    """Cause and place of a YAML error in one line."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return str(error).splitlines()[0]
    return f"{getattr(error, 'problem', 'error')} at line {mark.line + 1}, column {mark.column + 1}"


def parse_override(text: str) -> tuple[str, Any]:
    """``"a.b=c"`` as (key, value); the value is read as YAML, and ``1e-4`` as a number."""
    key, equals, raw = text.partition("=")
    if not equals or not key.strip():
        raise SettingsError(f"--set takes key=value, got {text!r}, e.g. training.max_steps=100")
    try:
        value = yaml.safe_load(raw)
    except yaml.YAMLError:
        raise SettingsError(f"--set {key}: {raw!r} is not a YAML value") from None
    if isinstance(value, str) and value == raw.strip():  # YAML 1.1 takes 1e-4, unquoted, for a string
        try:
            number = float(value)
            value = number if math.isfinite(number) else value
        except ValueError:
            pass
    return key.strip(), value


def put(values: dict[str, Any], key: str, value: Any) -> None:
    """Set ``values["a"]["b"] = value`` for the key ``"a.b"``, making mappings on the way."""
    *parents, last = key.split(".")
    for depth, part in enumerate(parents):
        inside = values.setdefault(part, {})
        if isinstance(inside, str) and part in ("loss", "algorithm"):  # a name is short for its kind
            inside = values[part] = {"kind": inside}
        if inside is None:
            inside = values[part] = {}
        if not isinstance(inside, dict):
            raise SettingsError(
                f"{'.'.join(parents[: depth + 1])} is {inside!r}, so {key} cannot be set in it"
            )
        values = inside
    values[last] = value


def keys(section: type[BaseModel] = Settings, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting as ("training.max_steps", its pydantic field)."""
    for name, info in section.model_fields.items():
        inner = _section_of(info.annotation)
        if inner is None or not issubclass(inner, Section):
            yield prefix + name, info
        else:
            yield from keys(inner, f"{prefix}{name}.")


def _section_of(annotation: Any) -> type[Any] | None:
    types = [o for o in (annotation, *getattr(annotation, "__args__", ())) if isinstance(o, type)]
    return next((o for o in types if issubclass(o, Section) or is_dataclass(o)), None)


def _refuse_unknown(values: Mapping[str, Any], section: type[Any], prefix: str, root: type[Any]) -> None:
    of_model = {name: info.annotation for name, info in getattr(section, "model_fields", {}).items()}
    fields = of_model or get_type_hints(section)  # a dataclass has no model_fields
    for key, value in values.items():
        if key not in fields:
            here = [f"{prefix}{name}" for name in fields]
            everywhere = here + [name for name, _ in keys(root)]
            known = everywhere if nearest(f"{prefix}{key}", everywhere) else here
            raise SettingsError(unknown("setting", f"{prefix}{key}", known))
        inner = _section_of(fields[key])
        if inner is None or value is None:
            continue
        listed = get_origin(fields[key]) is list and isinstance(value, list)
        for item in value if listed else [value]:
            if isinstance(item, Mapping):
                _refuse_unknown(item, inner, f"{prefix}{key}.", root)
            elif not isinstance(item, inner):
                raise SettingsError(f"{prefix}{key} holds settings of its own, got {item!r}")
