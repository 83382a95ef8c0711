"""The subject of the static checks: a model folder and what it will be trained with, read when asked for.

A part that is not there raises :class:`~holdtrue.doctor.findings.Missing`, which skips the check that asked
for it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar, cast

from holdtrue.data.examples import Example, Examples
from holdtrue.doctor import tallies
from holdtrue.doctor.dialect import Dialect
from holdtrue.doctor.facts import Family, family
from holdtrue.doctor.findings import Missing as Missing
from holdtrue.doctor.rendering import Template, Unrendered
from holdtrue.doctor.tokenizer_class import tokenizer_class
from holdtrue.doctor.weights import Pickled, Weights
from holdtrue.errors import DataError, ModelError

Counted = TypeVar("Counted", bound=tallies.Tally)
USES = ("tools", "thinking", "multi-turn")
CALLER, SETTINGS = "--uses", "the settings"
"""Who names a use of the model, where it is not an example of the data."""
SAMPLE = 200
"""Enough to see a fault that many rows share, in about a second."""


@dataclass(frozen=True)
class Subject:
    """What is examined.

    Attributes:
        folder: of the model; it may hold only a tokenizer.
        adapter: folder of a LoRA adapter trained or to be trained on it.
        examples: training data, when given; gone through several times, and never copied.
        settings: of the training run, flat, by the names TRL gives them (``learning_rate``, ``beta``).
        asked: uses of the model beyond single turns (``USES``) that the caller names.
        glue: what an environment writes by hand between the text of a tool call and the next answer;
            ``{result}`` stands for what the tool gave.
        forward: whether the model itself may be loaded and run (W06), which takes memory and torch.
    """

    folder: Path
    adapter: Path | None = None
    examples: Examples | None = None
    settings: Mapping[str, Any] | None = None
    asked: frozenset[str] = field(default_factory=frozenset)
    glue: str | None = None
    forward: bool = False
    _taken: dict[type, tallies.Tally | Missing] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """``config.json``."""
        return self.json("config.json")

    @cached_property
    def generation_config(self) -> Mapping[str, Any]:
        """``generation_config.json``."""
        return self.json("generation_config.json")

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer, loaded by transformers from local files; no code that comes with it is run."""
        if not any((self.folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
            raise Missing("no tokenizer in the folder")
        try:
            return tokenizer_class(self.folder).from_pretrained(self.folder, local_files_only=True)
        except Exception as error:  # of many libraries, and of Rust
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise ModelError(f"the tokenizer in {self.folder} cannot be loaded: {lines[0]}") from error

    @cached_property
    def vocabulary(self) -> Mapping[str, int]:
        """Every token's text, as the tokenizer keeps it, and its id; asked for once, as it takes 0.3 s."""
        return dict(self.tokenizer.get_vocab())

    @cached_property
    def template(self) -> Template:
        """The chat template, which renders conversations."""
        if not self.tokenizer.chat_template:
            raise Missing("no chat template")
        return Template(self.tokenizer)

    @cached_property
    def marks(self) -> tuple[str, ...]:
        """Texts of the control tokens of the model's format; none where the folder has no tokenizer."""
        try:
            return Template(self.tokenizer).marks
        except Missing:
            return ()

    @cached_property
    def family(self) -> Family | None:
        """The model's family, by its control tokens and ``model_type``; None when it is not known."""
        try:
            model_type = self.config.get("model_type")
        except Missing:
            model_type = None
        return family(model_type, Template(self.tokenizer).controls)

    @cached_property
    def templates(self) -> Mapping[str, str]:
        """Chat templates of the folder, by the file that holds them; tools differ in which they read."""
        found = {}
        for name in ("tokenizer_config.json", "chat_template.json", "chat_template.jinja"):
            path = self.folder / name
            if path.is_file():
                is_json = path.suffix == ".json"
                text = self.json(name).get("chat_template") if is_json else path.read_text("utf-8", "replace")
                if isinstance(text, str) and text.strip():
                    found[name] = text.strip()
        return found

    @cached_property
    def declared_ends(self) -> Mapping[str, frozenset[int]]:
        """Ids that end an answer, by who declares them: tokenizer, generation_config, config.

        A file that is missing or silent is left out.
        """
        ends = {}
        if self.tokenizer.eos_token_id is not None:
            ends["tokenizer"] = frozenset([int(self.tokenizer.eos_token_id)])
        for name in ("generation_config", "config"):
            try:
                declared = getattr(self, name)
            except Missing:
                continue
            if "text_config" in declared and isinstance(declared["text_config"], dict):
                declared = {**declared["text_config"], **declared}
            if declared.get("eos_token_id") is not None:
                ends[name] = frozenset(self._ids(declared["eos_token_id"], f"eos_token_id of {name}.json"))
        return ends

    @cached_property
    def stops(self) -> frozenset[int]:
        """Ids that engines stop at: the tokenizer's and generation_config's; config's where there is none."""
        ends = self.declared_ends
        declared = ends.get("generation_config", ends.get("config", frozenset()))
        return ends.get("tokenizer", frozenset()) | declared

    @cached_property
    def turn_end(self) -> tuple[int, ...] | None:
        """Ids with which the template ends a turn; None without a template or where it renders nothing."""
        try:
            return self.template.turn_end
        except (Missing, Unrendered):
            return None

    @property
    def stops_elsewhere(self) -> bool:
        """Whether no declared end is one that the template writes (T01 fails)."""
        return bool(self.turn_end) and self.stops.isdisjoint(self.turn_end or ())

    def counted(self, kind: type[Counted]) -> Counted:
        """What a tally holds after it has seen all the data.

        Raises:
            Missing: there are no data, or the tally needs what the subject lacks.
        """
        if not self.examples:
            raise Missing("no data is given")
        if kind not in self._taken:
            rows: Iterable[Any] = self.examples
            kinds = tallies.OF_EXAMPLES
            if kind in tallies.OF_ENCODED:
                from holdtrue.doctor.encoding import encode

                kinds, rows = tallies.OF_ENCODED, encode(self.examples, self.tokenizer)
            new = [one for one in kinds if one not in self._taken]
            self._taken.update(tallies.take(new, self, rows))
        found = self._taken[kind]
        if isinstance(found, Missing):
            raise found
        return cast(Counted, found)

    @cached_property
    def sample(self) -> Sequence[Example]:
        """Up to ``SAMPLE`` conversations of the data, evenly spread; the checks that render use them."""
        if not self.examples:
            return []
        step = max(1, self.counted(Overview).talks // SAMPLE)
        talks = (one for one in self.examples if one.messages)
        return list(islice(talks, 0, step * SAMPLE, step))

    @property
    def dialect(self) -> Dialect:
        """How the program that trains spells its settings; TRL's way where nothing says it."""
        return getattr(self.settings, "dialect", Dialect())

    @property
    def run_settings(self) -> Mapping[str, Any]:
        """The settings; a check that cannot do without them asks for them here."""
        if self.settings is None:
            raise Missing("no settings are given")
        return self.settings

    @cached_property
    def uses(self) -> Mapping[str, str]:
        """Uses of the model beyond single turns, each with who names it: caller, settings or an example."""
        found = {use: CALLER for use in USES if use in self.asked}
        settings = self.settings or {}
        if settings.get("tools") or settings.get("environment_factory"):
            found.setdefault("tools", SETTINGS)
        variables = settings.get("chat_template_kwargs")
        if isinstance(variables, dict) and variables.get("enable_thinking"):
            found.setdefault("thinking", SETTINGS)
        for use, at in self.counted(Overview).uses.items() if self.examples else ():
            found.setdefault(use, at)
        return found

    def _ids(self, value: Any, what: str) -> list[int]:
        ids = value if isinstance(value, list) else [value]
        if any(isinstance(one, bool) or not isinstance(one, int) for one in ids):
            raise DataError(f"{self.folder}: {what} is {value!r}; an id or a list of ids is expected")
        return ids

    @cached_property
    def weights(self) -> Weights:
        """The model's tensors, read when asked for."""
        try:
            weights = Weights.of(self.folder)
        except Pickled as error:  # the rest of the folder can be checked
            raise Missing(str(error)) from error
        if weights is None:
            raise Missing("no weights in the folder")
        return weights

    @cached_property
    def adapter_config(self) -> Mapping[str, Any]:
        """PEFT's settings: ``adapter_config.json`` of the adapter, else TRL's ``lora_...`` settings."""
        if self.adapter is not None:
            return Subject(self.adapter).json("adapter_config.json")
        settings = self.settings or {}
        if not (settings.get("use_peft") or settings.get("lora_r")):
            raise Missing("no adapter is given, and the settings name none")
        names = ("target_modules", "modules_to_save", "trainable_token_indices")
        return {name: settings.get(f"lora_{name}", settings.get(name)) for name in names}

    def json(self, name: str) -> Mapping[str, Any]:
        """A JSON object of the folder."""
        path = self.folder / name
        if not path.is_file():
            raise Missing(f"no {name}")
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path} is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise DataError(f"{path} holds a {type(value).__name__}, not an object")
        return value


@tallies.of_examples
class Overview:
    """What the data are of.

    Attributes:
        files: that hold them, in order.
        talks: conversations; the other examples are raw texts.
        system: how many have a system turn; ``system_at`` is the first of them.
        answered: conversations whose last turn is an answer.
        uses: uses beyond single turns, each with the first example that has it.
    """

    def __init__(self, subject: Subject) -> None:
        self.files: dict[str, None] = {}
        self.examples = self.talks = self.answered = self.system = 0
        self.system_at = ""
        self.uses: dict[str, str] = {}

    def see(self, one: Example) -> None:
        self.files[one.at.rpartition(":")[0] or one.at] = None
        self.examples += 1
        self.talks += bool(one.messages)
        turns = [message for message in one.messages if message.get("role") == "assistant"]
        self.answered += bool(one.messages) and one.messages[-1].get("role") == "assistant"
        if any(message.get("role") == "system" for message in one.messages):
            self.system += 1
            self.system_at = self.system_at or one.at
        if one.tools or any(map(_is_of_tools, one.messages)):
            self.uses.setdefault("tools", one.at)
        if any("<think>" in str(turn.get("content")) or turn.get("reasoning_content") for turn in turns):
            self.uses.setdefault("thinking", one.at)
        if len(turns) > 1:
            self.uses.setdefault("multi-turn", one.at)


def _is_of_tools(message: Mapping[str, Any]) -> bool:
    return message.get("role") in ("tool", "ipython", "observation") or bool(message.get("tool_calls"))
