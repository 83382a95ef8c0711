"""Loading and saving reward models in the formats the field reads.

A saved model is a transformers ``...ForSequenceClassification`` with one bias-free output ``score``:
``AutoModelForSequenceClassification``, TRL, vLLM's classify, rewardbench and OpenRLHF load it as it is.
Safetensors only; code from a model folder runs only where the caller says ``trust_remote_code``.
"""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)
from transformers.utils import logging as transformers_logging

from holdtrue.errors import ModelError, SettingsError
from holdtrue.reward import adapters, gate, imports
from holdtrue.reward.card import RewardCard, read_card, text_hash, weights_hash
from holdtrue.reward.kinds import ComparingKind, RewardKind
from holdtrue.reward.kinds.aspects import Aspects
from holdtrue.reward.kinds.process import Process
from holdtrue.reward.kinds.scalar import Scalar
from holdtrue.reward.language import language_head
from holdtrue.reward.model import RewardModel, renew_head
from holdtrue.reward.readme import readme
from holdtrue.rundir import read_json
from holdtrue.settings import ModelSettings
from holdtrue.tokens.conversation import Encoder, Truncation, model_max_length, prepare_tokenizer
from holdtrue.tokens.joint import JointEncoder


@dataclass
class Loaded:
    """A reward model with its tokenizer and what is known of both."""

    model: RewardModel
    tokenizer: Any
    template: str
    card: RewardCard | None
    base: str
    fresh_head: bool
    imported: imports.Imported | None = None

    def encoder(
        self, max_length: int | None = None, truncation: Truncation | None = None
    ) -> Encoder | JointEncoder:
        """Encoder with the limits given, else the card's, else what the model can take.

        It encodes comparisons for kinds that compare, else single conversations.

        Raises:
            SettingsError: ``max_length`` is more than the model can take, or nothing says how much that is.
        """
        limit = model_max_length(self.model.inner.config, self.tokenizer)
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
        separator = kind.separator if isinstance(kind, Process) else "\n"
        return Encoder(
            self.tokenizer, wanted, truncation or card_truncation, embeddings, kind.marks, separator
        )


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
        model, info = _from(
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
        return adapters.with_new(lm, self.settings.lora, self.seed, task, None)

    def with_saved_adapter(self, lm: Any) -> Any:
        """The language model with the folder's adapter."""
        return adapters.with_saved(lm, self.path)


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Keep transformers from writing bars and notices to the terminal; real failures raise."""
    hub = logging.getLogger("huggingface_hub")
    level, hub_level = transformers_logging.get_verbosity(), hub.level
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.ERROR)
    hub.setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # peft calls transformers by names that are deprecated there
            warnings.simplefilter("ignore", FutureWarning)
            warnings.filterwarnings("ignore", "Setting `save_embedding_layers`", UserWarning)
            yield
    finally:
        transformers_logging.set_verbosity(level)
        hub.setLevel(hub_level)
        if bars:
            transformers_logging.enable_progress_bar()


def load(
    settings: ModelSettings, *, seed: int = 0, device: str = "cpu", trust_remote_code: bool = False
) -> Loaded:
    """A reward model from a folder: a causal LM (fresh head), a sequence classifier or a saved adapter.

    What other tools saved is read as :mod:`holdtrue.reward.imports` says; a LoRA adapter of theirs is merged.

    Raises:
        ModelError: nothing is there, it cannot be read, or it is of a kind that cannot be a reward model.
    """
    path = str(settings.path)
    imports.refuse_unreadable(Path(path))
    adapted = adapters.base_of(path)
    base = adapted or path
    card = read_card(Path(path)) if Path(path).is_dir() else None
    kind = chosen_kind(settings)
    with quiet_loading():
        config = _from(AutoConfig, base, trust_remote_code=trust_remote_code)
        if not isinstance(kind, ComparingKind):
            _refuse_other_kinds(config, base)
        if Path(path).is_dir() and not adapted and not _has_tokenizer(path):
            raise ModelError(f"{path} holds no tokenizer (tokenizer.json, tokenizer_config.json)")
        tokenizer = _from(
            AutoTokenizer, path if _has_tokenizer(path) else base, trust_remote_code=trust_remote_code
        )
        template = prepare_tokenizer(tokenizer, settings.chat_template_path)
        found = None
        if isinstance(kind, ComparingKind):
            trained = card is not None and card.made_by.name() == kind.name()
            source = Source(
                path, base, config, tokenizer, settings, seed, trust_remote_code, bool(adapted), trained
            )
            model, fresh = kind.build(source)
        else:
            found = imports.recognise(Path(base), config)
            classifier, fresh = _classifier(
                base, config, kind, settings.dtype, seed, trust_remote_code, found
            )
            _give_pad_token(classifier, tokenizer)
            own = imports.recognise(Path(path), config) if adapted else None
            if own is not None:
                classifier, fresh, found = adapters.with_foreign(classifier, path, own), False, own
            elif adapted:
                classifier, fresh = adapters.with_saved(classifier, path), False
            if settings.lora is not None and (own is not None or not adapted):
                classifier = adapters.with_new(classifier, settings.lora, seed, "SEQ_CLS", ["score"])
            model = RewardModel(classifier, tokenizer.pad_token_id, kind)
            model.head.float()
            if isinstance(kind, Aspects) and kind.gate is not None and settings.kind is None:
                width = model.inner.config.get_text_config().hidden_size
                model.gate = gate.load(Path(path), width, len(kind.names), kind.gate)
    model.to(device)
    model.eval()
    model.examine()
    if card is not None and template == "own":
        template = card.template.get("name", template)
    return Loaded(model, tokenizer, template, card, base, fresh, found)


def chosen_kind(settings: ModelSettings) -> RewardKind:
    """The kind of the settings, else that of the saved model's card, else a scalar."""
    folder = Path(str(settings.path))
    card = read_card(folder) if settings.kind is None and folder.is_dir() else None
    found: RewardKind = settings.kind or (card.made_by if card else Scalar())
    return found


def keep_language_head(loaded: Loaded, *, trust_remote_code: bool = False) -> None:
    """Give the model the head of the causal LM it is made from, for losses that read ``logprobs``.

    Raises:
        ModelError: the model is made from a classifier, which has none.
    """
    with quiet_loading():
        causal = _causal(loaded.base, loaded.model.inner.dtype, trust_remote_code)
    loaded.model.language_head = language_head(loaded.model.inner, causal).to(loaded.model.device)


def load_causal(path: str | Path, *, device: str = "cpu", trust_remote_code: bool = False) -> Loaded:
    """A causal LM, or an adapter on one, for its log-probabilities; it has no reward head.

    Raises:
        ModelError: it cannot be read, or is a reward model.
    """
    path = str(path)
    imports.refuse_unreadable(Path(path))
    adapted = adapters.base_of(path)
    base = adapted or path
    if adapted and read_json(Path(path) / "adapter_config.json").get("task_type") == "SEQ_CLS":
        raise ModelError(f"{path} is the adapter of a reward model; one of a causal LM is needed")
    with quiet_loading():
        config = _from(AutoConfig, base, trust_remote_code=trust_remote_code)
        if any("SequenceClassification" in name for name in config.architectures or []):
            raise ModelError(f"{base} is a {config.architectures[0]}; a causal LM is needed")
        _refuse_other_kinds(config, base)
        tokenizer = _from(
            AutoTokenizer, path if _has_tokenizer(path) else base, trust_remote_code=trust_remote_code
        )
        causal = _causal(base, torch.float32, trust_remote_code)
        if adapted:
            causal = adapters.with_saved(causal, path)
        template = prepare_tokenizer(tokenizer)
    model = RewardModel(causal, pad_id=0)  # what stands in the padding is never seen
    model.language_head = language_head(model.inner, model.inner)
    model.to(device)
    model.eval()
    model.examine()
    return Loaded(model, tokenizer, template, None, base, False)


def _causal(base: str, dtype: torch.dtype, trust: bool) -> Any:
    causal, info = _from(
        AutoModelForCausalLM,
        base,
        dtype=dtype,
        use_safetensors=True,
        output_loading_info=True,
        trust_remote_code=trust,
    )
    tied = causal.config.get_text_config().tie_word_embeddings
    missing = [key for key in info["missing_keys"] if not (tied and key.startswith(("lm_head", "embed_out")))]
    if missing:
        raise ModelError(f"{base} has no language head ({missing[0]}); start from the causal LM")
    return causal


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
        _declare(config, loaded.model.kind.labels, card)
    with quiet_loading():
        classifier.save_pretrained(folder)
        if hasattr(classifier, "peft_config"):
            config.save_pretrained(folder / "base_config")
        loaded.tokenizer.save_pretrained(folder)
    if loaded.model.gate is not None:
        gate.save(loaded.model.gate, folder)
    card.kind = loaded.model.kind.model_dump(mode="json")
    card.base_model = card.base_model or loaded.base
    card.template = {"name": loaded.template, "sha256": text_hash(loaded.tokenizer.chat_template or "")}
    for file in folder.rglob("*.safetensors"):
        file.chmod(0o644)  # safetensors makes them readable by their owner only
    card.weights_sha256 = weights_hash(folder)
    card.write(folder)
    (folder / "README.md").write_text(readme(card, hasattr(classifier, "peft_config")), encoding="utf-8")
    loaded.card = card


def _declare(config: Any, labels: tuple[str, ...], card: RewardCard) -> None:
    config.id2label, config.label2id = dict(enumerate(labels)), {name: i for i, name in enumerate(labels)}
    config.problem_type = "regression"
    config.use_cache = False
    config.value_head_prefix = "score"
    config.mean, config.std = card.reward.get("mean", 0.0), card.reward.get("std", 1.0)


def _has_tokenizer(path: str) -> bool:
    files = (Path(path) / name for name in ("tokenizer_config.json", "tokenizer.json"))
    return not Path(path).is_dir() or any(file.is_file() for file in files)


def _from(kind: Any, path: str, **options: Any) -> Any:
    if path.startswith((".", "/", "~")) and not Path(path).exists():
        raise ModelError(f"model {path} does not exist")
    try:
        return kind.from_pretrained(None if "state_dict" in options else path, **options)
    except MemoryError:
        raise
    except Exception as error:  # a broken folder makes its readers raise anything
        lines = [line for line in str(error).splitlines() if line.strip()]
        where = "" if Path(path).exists() else " (no such folder here, so it was looked for on the hub)"
        said = lines[0][:300] if lines else repr(error)
        raise ModelError(f"model {path} cannot be loaded{where}: {said}") from error


def _refuse_other_kinds(config: Any, path: str) -> None:
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(f"{path} is an encoder-decoder ({config.model_type}); a decoder is needed")
    names = config.architectures or []
    if any(n.endswith(("ForMaskedLM", "ForTokenClassification", "ForQuestionAnswering")) for n in names):
        raise ModelError(f"{path} is a {names[0]}; a causal LM or a sequence classifier is needed")


def _classifier(
    base: str,
    config: Any,
    kind: RewardKind,
    dtype: str,
    seed: int,
    trust: bool,
    found: imports.Imported | None,
) -> tuple[Any, bool]:
    outputs = len(kind.labels)
    saved_as_classifier = found is None and any(
        "SequenceClassification" in n or n == "RewardModel" for n in config.architectures or []
    )
    if saved_as_classifier and config.num_labels != outputs:
        raise ModelError(
            f"{base} has {config.num_labels} outputs; a {kind.name()} reward model has {outputs}"
        )
    auto: Any = AutoModelForSequenceClassification
    source: dict[str, Any] = {"num_labels": outputs}
    if found is not None and found.prefix:  # what transformers renames, it saves by the old names again
        auto, config.num_labels = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)], outputs
        source = {"config": config, "state_dict": found.backbone(Path(base))}
    classifier, info = _from(
        auto,
        base,
        **source,
        dtype=getattr(torch, dtype),
        use_safetensors=True,
        ignore_mismatched_sizes=True,  # they are refused below, with the shapes
        output_loading_info=True,
        trust_remote_code=trust,
    )
    for name, saved, expected in sorted(info["mismatched_keys"]):
        raise ModelError(
            f"{base}: {name} is {tuple(saved)} in the file and {tuple(expected)} by its config.json"
        )
    missing = sorted(str(key) for key in info["missing_keys"])
    lost = [key for key in missing if not key.startswith("score.")]
    if lost:
        raise ModelError(f"{base} lacks weights its architecture needs: {', '.join(lost[:3])}")
    fresh = bool(missing) and found is None
    if fresh and saved_as_classifier:
        raise ModelError(f"{base} calls itself a classifier but its head score.weight is not in the file")
    if saved_as_classifier and info["unexpected_keys"]:
        extra = ", ".join(sorted(map(str, info["unexpected_keys"]))[:3])
        raise ModelError(f"{base} holds weights its architecture has no place for: {extra}")
    if fresh:
        renew_head(classifier, outputs, seed)
    elif not isinstance(getattr(classifier, "score", None), torch.nn.Linear):
        raise ModelError(
            f"{type(classifier).__name__} has no linear head 'score'; only decoders are supported"
        )
    elif found is not None:
        found.put_into(classifier.score, base)
    elif dtype != "float32":
        _restore_head(classifier.score, base)
    return classifier, fresh


def _restore_head(head: torch.nn.Linear, folder: str) -> None:
    """The head as it was saved, in float32: loading rounded it to the backbone's type."""
    head.float()
    for file in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            if "score.weight" in opened.keys():  # noqa: SIM118
                head.weight.data.copy_(opened.get_tensor("score.weight"))


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
    building = folder.with_name(f".{folder.name}.building")
    shutil.rmtree(building, ignore_errors=True)
    save(loaded, building, card, merge=merge)
    shutil.rmtree(folder, ignore_errors=True)
    building.rename(folder)
