"""Loading and saving reward models in the formats the field reads.

A saved model is a transformers ``...ForSequenceClassification`` with one bias-free output ``score``:
``AutoModelForSequenceClassification``, TRL, vLLM's classify, rewardbench and OpenRLHF load it as it is.
Safetensors only; code from a model folder runs only where the caller says ``trust_remote_code``.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer

from holdtrue.errors import ModelError, SettingsError
from holdtrue.records import Answer, Group, Message
from holdtrue.reward import adapters, gate, imports, pools
from holdtrue.reward.card import RewardCard, read_card, text_hash, weights_hash
from holdtrue.reward.classifiers import from_pretrained, load_classifier, quiet_loading
from holdtrue.reward.kinds import ComparingKind, RewardKind
from holdtrue.reward.kinds.aspects import Aspects
from holdtrue.reward.kinds.process import Process
from holdtrue.reward.kinds.scalar import Scalar
from holdtrue.reward.model import RewardModel
from holdtrue.reward.readme import readme
from holdtrue.settings import ModelSettings
from holdtrue.tokens.conversation import Encoder, Truncation, model_max_length, prepare_tokenizer
from holdtrue.tokens.joint import JointEncoder
from holdtrue.tokens.sentences import Input, SentenceEncoder, parts_pairs, separator


@dataclass
class Loaded:
    """A reward model with its tokenizer and what is known of both.

    Attributes:
        template: which chat template a decoder has; what an encoder is given, ``text`` or ``pair``.
        fresh: modules that were not in the folder and were drawn at random, among them the head.
        imported: the head as another tool saved it.
    """

    model: RewardModel
    tokenizer: Any
    template: str
    card: RewardCard | None
    base: str
    fresh: list[str]
    imported: imports.Imported | None = None

    @property
    def fresh_head(self) -> bool:
        """Whether rewards are random, as the head was not in the folder."""
        return bool(self.fresh)

    def encoder(
        self, max_length: int | None = None, truncation: Truncation | None = None
    ) -> Encoder | JointEncoder:
        """Encoder with the limits given, else the card's, else what the model can take.

        It encodes comparisons for kinds that compare, else single conversations.

        Raises:
            SettingsError: ``max_length`` is more than the model can take, or nothing says how much that is.
        """
        limits = [
            model_max_length(self.model.inner.config, self.tokenizer),
            pools.positions(self.model.inner),
        ]
        limit = min((limit for limit in limits if limit is not None), default=None)
        embeddings = self.model.inner.get_input_embeddings().num_embeddings
        wanted = max_length or (self.card.max_length if self.card else None) or limit
        if wanted is None:
            raise SettingsError(
                "neither model nor tokenizer says how long a text may be; set data.max_length"
            )
        if limit is not None and wanted > limit:
            raise SettingsError(f"max_length {wanted} is more than the {limit} tokens the model can take")
        card_truncation: Any = self.card.truncation if self.card else "drop"
        kind = self.model.kind
        if isinstance(kind, ComparingKind):
            return kind.encoder(self, wanted, truncation or card_truncation)
        options = self.tokenizer, wanted, truncation or card_truncation, embeddings
        if self.model.pool == "last":
            separator = kind.separator if isinstance(kind, Process) else "\n"
            return Encoder(*options, kind.marks, separator)
        return SentenceEncoder(*options, input=_input(self.template))


@dataclass(frozen=True)
class Source:
    """A model folder about to be loaded by a kind that compares.

    Attributes:
        base: the folder of the weights, that of the adapter's base where ``path`` holds an adapter.
        trained: the folder's card says that it is of this kind.
    """

    path: str
    base: str
    config: Any
    tokenizer: Any
    settings: ModelSettings
    seed: int
    trust_remote_code: bool
    adapted: bool
    trained: bool

    def weights(self, auto: Any, unused: tuple[str, ...] = ()) -> Any:
        """The model as an auto class loads it; all but its ``unused`` weights must be in the file."""
        model, info = from_pretrained(
            auto,
            self.base,
            dtype=getattr(torch, self.settings.dtype),
            use_safetensors=True,
            output_loading_info=True,
            trust_remote_code=self.trust_remote_code,
        )
        lost = sorted(key for key in map(str, info["missing_keys"]) if not key.startswith(unused))
        if lost:
            raise ModelError(f"{self.base} lacks weights its architecture needs: {', '.join(lost[:3])}")
        return model

    def with_new_adapter(self, lm: Any, task: str) -> Any:
        """The language model with fresh adapters as set."""
        assert self.settings.lora is not None
        return adapters.with_new(lm, self.settings.lora, self.seed, task=task)

    def with_saved_adapter(self, lm: Any) -> Any:
        """The language model with the folder's adapter."""
        return adapters.with_saved(lm, self.path)


def load(
    settings: ModelSettings, *, seed: int = 0, device: str = "cpu", trust_remote_code: bool = False
) -> Loaded:
    """A reward model from a folder: a language model or encoder (fresh head), a classifier or an adapter.

    What other tools saved is read as :mod:`holdtrue.reward.imports` says; a LoRA adapter of theirs is merged.

    Raises:
        ModelError: nothing is there, it cannot be read, or it is of a kind that cannot be a reward model.
        SettingsError: what is set is for the other family, decoders or encoders.
    """
    path = str(settings.path)
    imports.refuse_unreadable(Path(path))
    adapted = adapters.base_of(path)
    base = adapted or path
    card = read_card(Path(path)) if Path(path).is_dir() else None
    kind = chosen_kind(settings)
    with quiet_loading():
        config = from_pretrained(AutoConfig, base, trust_remote_code=trust_remote_code)
        if Path(path).is_dir() and not adapted and not has_tokenizer(path):
            raise ModelError(f"{path} holds no tokenizer (tokenizer.json, tokenizer_config.json)")
        tokenizer = from_pretrained(
            AutoTokenizer, path if has_tokenizer(path) else base, trust_remote_code=trust_remote_code
        )
        known = card is not None and card.made_by.name() == kind.name()
        source = Source(
            path, base, config, tokenizer, settings, seed, trust_remote_code, bool(adapted), known
        )
        if isinstance(kind, ComparingKind):
            if (settings.pool, settings.input) != ("auto", "auto"):
                raise SettingsError(
                    f"model.pool and model.input are for single answers; {kind.name()} has none"
                )
            template = prepare_tokenizer(tokenizer, settings.chat_template_path)
            model, untrained = kind.build(source)
            loaded = Loaded(model, tokenizer, template, card, base, ["head"] if untrained else [])
        else:
            loaded = _build(source, kind, card)
    model, template = loaded.model, loaded.template
    model.to(device)
    model.eval()
    model.examine()
    if model.pool != "last":
        _require_padding(model, SentenceEncoder(tokenizer, sys.maxsize, input=_input(template)), base)
    if card is not None and template == "own":
        loaded.template = card.template.get("name", template)
    return loaded


def _build(source: Source, kind: RewardKind, card: RewardCard | None) -> Loaded:
    """The model of a kind that scores one answer, and how it reads conversations."""
    settings, base, tokenizer = source.settings, source.base, source.tokenizer
    pool = pools.choose(settings.pool, source.config, base, card.pool if card else None)
    if (kind.tokenwise or kind.marks) and pool != "last":
        if kind.marks == "prompt":
            raise ModelError(
                f"{base} is an encoder, and a gate reads where the prompt ends: leave out the gate"
            )
        raise ModelError(
            f"{base} is an encoder asked for {kind.name()}: only decoders give values of tokens; "
            "encoders take model.kind scalar, two_class, aspects or pair_ranker"
        )
    found = imports.recognise(Path(base), source.config) if pool == "last" else None
    classifier, fresh = load_classifier(
        base,
        source.config,
        kind,
        pool,
        settings.dtype,
        seed=source.seed,
        trust=source.trust_remote_code,
        trained=card is not None and card.pool == pool and not source.adapted,
        imported=found,
    )
    template = _reading(tokenizer, settings, pool, card)
    _give_pad_token(classifier, tokenizer)
    own = imports.recognise(Path(source.path), source.config) if source.adapted else None
    if own is not None:
        classifier, fresh, found = adapters.with_foreign(classifier, source.path, own), [], own
    elif source.adapted:
        classifier, fresh = adapters.with_saved(classifier, source.path), []
    if settings.lora is not None and (own is not None or not source.adapted):
        heads = pools.outside_backbone(classifier, fresh)
        classifier = adapters.with_new(classifier, settings.lora, source.seed, heads)
    types = separator(tokenizer) if template == "pair" else None
    model = RewardModel(classifier, tokenizer.pad_token_id, kind, pool, types)
    model.head.float()
    if isinstance(kind, Aspects) and kind.gate is not None and settings.kind is None:
        width = model.inner.config.get_text_config().hidden_size
        model.gate = gate.load(Path(source.path), width, len(kind.names), kind.gate)
    return Loaded(model, tokenizer, template, card, base, fresh, found)


def _reading(tokenizer: Any, settings: ModelSettings, pool: pools.Pool, card: RewardCard | None) -> str:
    """How conversations are read: the name of a decoder's chat template, or an encoder's input."""
    if pool == "last":
        if settings.input != "auto":
            raise SettingsError(
                f"model.input {settings.input} is for encoders; a decoder reads its chat template"
            )
        return prepare_tokenizer(tokenizer, settings.chat_template_path)
    if settings.chat_template_path is not None:
        raise SettingsError(
            "model.chat_template_path is for decoders; an encoder reads text or pair (model.input)"
        )
    saved = card.template.get("name") if card else None
    if settings.input == "auto":
        return saved or ("pair" if parts_pairs(tokenizer) else "text")
    return settings.input


def _input(template: str) -> Input:
    return "pair" if template == "pair" else "text"


def _require_padding(model: RewardModel, encoder: SentenceEncoder, base: str) -> None:
    """Refuse an encoder whose answers' states depend on the batch they are in."""
    answers = tuple(Answer((Message("assistant", "a" * length),)) for length in (1, 20, 6))
    ids = [
        own for own in next(encoder.encode([Group((Message("user", "a"),), answers)])).ids if own is not None
    ]
    family = f"{base} ({model.inner.config.model_type})"
    try:
        error = model.padding_error(ids)
    except (AttributeError, RuntimeError, TypeError, ValueError) as raised:
        raise ModelError(f"{family} cannot be read: {str(raised).splitlines()[0][:200]}") from raised
    if not error < (1e-3 if model.inner.dtype == torch.float32 else 0.05):
        raise ModelError(
            f"{family} reads padding: its states change by {error:.0e} with the batch they are in"
        )


def chosen_kind(settings: ModelSettings) -> RewardKind:
    """The kind of the settings, else that of the saved model's card, else a scalar."""
    folder = Path(str(settings.path))
    card = read_card(folder) if settings.kind is None and folder.is_dir() else None
    found: RewardKind = settings.kind or (card.made_by if card else Scalar())
    return found


def load_trained(path: str | Path, *, device: str = "cpu", trust_remote_code: bool = False) -> Loaded:
    """A reward model to score with.

    Raises:
        ModelError: as :func:`load`, or the model has no reward head yet, so that rewards would be random.
    """
    loaded = load(ModelSettings(path=str(path)), device=device, trust_remote_code=trust_remote_code)
    if loaded.fresh_head:
        raise ModelError(f"{path} has no reward head; train one first: holdtrue train PAIRS --model {path}")
    return loaded


def save(loaded: Loaded, folder: Path, card: RewardCard, *, merge: bool = False) -> None:
    """Write model, tokenizer, card and a README into ``folder``; an adapter is merged on request.

    Kinds that compare are saved as what they are, a language model or an encoder with its head.
    Conventions of all others: one label ``reward``, ``problem_type: regression``, a padding token that is
    not EOS, the reference rewards' ``mean`` and ``std`` and ``value_head_prefix`` for OpenRLHF.
    """
    folder.mkdir(parents=True, exist_ok=True)
    classifier = loaded.model.classifier
    if merge and hasattr(classifier, "merge_and_unload"):
        classifier = classifier.merge_and_unload()
    config = loaded.model.inner.config
    if not isinstance(loaded.model.kind, ComparingKind):
        _declare(loaded.model, card)
    with quiet_loading():
        classifier.save_pretrained(folder)
        if hasattr(classifier, "peft_config"):
            config.save_pretrained(folder / "base_config")
        loaded.tokenizer.save_pretrained(folder)
    if loaded.model.gate is not None:
        gate.save(loaded.model.gate, folder)
    card.kind = loaded.model.kind.model_dump(mode="json")
    card.pool = loaded.model.pool
    card.base_model = card.base_model or loaded.base
    card.template = {"name": loaded.template, "sha256": text_hash(loaded.tokenizer.chat_template or "")}
    for file in folder.rglob("*.safetensors"):
        file.chmod(0o644)  # safetensors makes them readable by their owner only
    card.weights_sha256 = weights_hash(folder)
    card.write(folder)
    (folder / "README.md").write_text(readme(card, hasattr(classifier, "peft_config")), encoding="utf-8")
    loaded.card = card


def _declare(model: RewardModel, card: RewardCard) -> None:
    config, labels = model.inner.config, model.kind.labels
    config.id2label, config.label2id = dict(enumerate(labels)), {name: i for i, name in enumerate(labels)}
    config.problem_type = "regression"
    config.use_cache = False
    config.value_head_prefix = model.head_name.partition(".")[0]
    config.mean, config.std = card.reward.get("mean", 0.0), card.reward.get("std", 1.0)


def has_tokenizer(path: str) -> bool:
    """Whether a folder holds a tokenizer; a name on the hub is taken to."""
    files = (Path(path) / name for name in ("tokenizer_config.json", "tokenizer.json"))
    return not Path(path).is_dir() or any(file.is_file() for file in files)


def _give_pad_token(classifier: Any, tokenizer: Any) -> None:
    """A padding token that is not EOS: transformers' classifiers find the last token by comparing with it."""
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        unknown = tokenizer.unk_token_id
        if unknown is not None and unknown not in (tokenizer.eos_token_id, tokenizer.bos_token_id):
            tokenizer.pad_token = tokenizer.unk_token
        else:
            tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
    # Also when the token came with a saved adapter's tokenizer: its base does not have the row. Other tokens
    # without one stay without (Gemma 3's text models name an image token): the encoder leaves such texts out.
    if tokenizer.pad_token_id >= classifier.get_input_embeddings().num_embeddings:
        classifier.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    classifier.config.pad_token_id = tokenizer.pad_token_id
    classifier.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    tokenizer.padding_side = "right"


def publish(loaded: Loaded, folder: Path, card: RewardCard, *, merge: bool = False) -> None:
    """:func:`save` beside the folder, then swap it in, so that a reader never meets half a model."""
    with replacing(folder) as building:
        save(loaded, building, card, merge=merge)


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A folder to write into, which takes the place of ``folder`` when all of it has been written."""
    building = folder.with_name(f".{folder.name}.building")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    yield building
    shutil.rmtree(folder, ignore_errors=True)
    building.rename(folder)
