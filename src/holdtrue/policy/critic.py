"""The critic: what an answer will be worth, as expected before each of its tokens is written.

    V_t = w · h_{t-1} + b          [reward as it counts, see :mod:`holdtrue.policy.rewards`]

It is a decoder of its own that reads the policy's token ids. Started from the reward model, as in arXiv
2403.17031, it says of a whole answer what that says, so it is of use from the first step. Started from any
other model its head is 0, and advantages are those of the rewards alone until it has learned something.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from holdtrue.errors import ModelError
from holdtrue.policy.judges import ComparerJudge, ScorerJudge
from holdtrue.policy.rewards import Judge, RewardStack
from holdtrue.policy.samples import PaddedSamples
from holdtrue.policy.settings import RLSettings
from holdtrue.policy.trees import lay_out, reads_trees, share_prompts
from holdtrue.reward import adapters, store
from holdtrue.reward.classifiers import quiet_loading
from holdtrue.reward.kinds import ComparingKind
from holdtrue.reward.kinds.scalar import Scalar
from holdtrue.reward.kinds.token_values import TokenValues
from holdtrue.reward.model import RewardModel
from holdtrue.reward.scorer import RewardScorer
from holdtrue.rundir import find_model
from holdtrue.settings import LoraSettings, ModelSettings
from holdtrue.tokens.conversation import model_max_length


class Critic(nn.Module):
    """A decoder without its language head, and a linear head in float32.

    Args:
        backbone: gives states (N, T, D).
        head: makes a value of a state.
        start: what it starts from, and ``why`` from nothing better, for people to read.
        gives_reward: whether the head is the first reward's, still on that model's own scale.
        lora: train adapters, drawn from the ``seed``, instead of every weight; the head is trained in full.
    """

    def __init__(
        self,
        backbone: Any,
        head: nn.Linear,
        start: str,
        *,
        why: str = "",
        gives_reward: bool = False,
        lora: LoraSettings | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        backbone.requires_grad_(True)
        if lora is not None:
            with quiet_loading():
                backbone = adapters.with_new(backbone, lora, seed, task="FEATURE_EXTRACTION")
        self.backbone, self.head = backbone, head.to(next(backbone.parameters()).device)
        self.start, self.why, self.gives_reward = start, why, gives_reward
        self.eval()  # without dropout, as the policy

    def forward(self, padded: PaddedSamples) -> Tensor:
        """(N, T) value before each token of the answers is written, 0 elsewhere."""
        rows, places = padded.completion_NT.nonzero(as_tuple=True)
        if reads_trees(self.backbone):
            laid = lay_out(padded)
            with laid.inputs() as inputs:
                states = self.backbone(**inputs).last_hidden_state[0, laid.before]
        else:
            states = self.backbone(
                input_ids=padded.ids_NT, attention_mask=padded.attention_NT.long(), use_cache=False
            ).last_hidden_state[rows, places - 1]
        values = self.head(states.float())[:, 0]
        return torch.zeros_like(padded.logprobs_NT).index_put((rows, places), values)

    @torch.no_grad()
    def take_scale(self, rewards: RewardStack) -> None:
        """Make the head of the first reward say what that counts: V becomes weight · (V - mean) / std.

        Call it once, when the scales are known and nothing is learned yet; a head of 0 stays as it is.
        """
        if not self.gives_reward:
            return
        factor, mean = rewards.scale(0)
        assert self.head.bias is not None
        self.head.bias.sub_(mean)
        for parameter in self.head.parameters():
            parameter.mul_(factor)

    def facts(self) -> dict[str, Any]:
        """Its part of ``run.json``."""
        parts = list(self.parameters())
        trained = sum(p.numel() for p in parts if p.requires_grad)
        return {
            "start": self.start,
            "why": self.why,
            "parameters": sum(p.numel() for p in parts),
            "trainable": trained,
        }


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float | None:
    """1 - Var(R - V) / Var(R) over the tokens that count: 1 of a perfect critic, 0 of one no better than a
    constant; None where all returns are equal."""
    found, wanted = values[mask].double(), returns[mask].double()
    spread = wanted.var(correction=0).item() if len(wanted) else 0.0
    return 1 - (wanted - found).var(correction=0).item() / spread if spread else None


def build(
    settings: RLSettings,
    policy: Any,
    tokenizer: Any,
    judge: Judge,
    longest: int,
    *,
    trust_remote_code: bool = False,
) -> Critic:
    """The critic of a run, on the policy's device.

    Args:
        judge: the first reward, which it starts from where that can be, and says why where not.
        longest: tokens of the longest prompt with its answer.

    Raises:
        ModelError, DataError: ``critic.path`` cannot be read, or does not read what the policy writes.
    """
    path = settings.critic.path
    options: dict[str, Any] = {"lora": settings.policy.lora, "seed": settings.seed}
    if path is not None:
        where = ModelSettings(path=str(find_model(path)))
        loaded = store.load(where, device=str(policy.device), trust_remote_code=trust_remote_code)
        if why := _unfit(loaded, policy, tokenizer, longest):
            raise ModelError(f"critic.path {path} {why}; a decoder with the policy's tokens is needed")
        return _of_model(loaded.model, path, keep_head=False, **options)
    name, why = settings.rewards[0].name, "is no model"
    if isinstance(judge, ScorerJudge):
        if not isinstance(judge.scorer, RewardScorer):
            why = "is made of several models"
        else:
            loaded = judge.scorer.loaded
            unfit = _unfit(loaded, policy, tokenizer, longest)
            if unfit is None:
                kept = isinstance(loaded.model.kind, Scalar | TokenValues)
                return _of_model(loaded.model, name, keep_head=kept, **options)
            why = unfit
    elif isinstance(judge, ComparerJudge):
        why = "compares answers"
    return of_policy(policy, why=f"reward {name} {why}", **options)


def of_policy(policy: Any, lora: LoraSettings | None = None, seed: int = 0, why: str = "") -> Critic:
    """A critic that starts from a causal LM, without the adapters it trains, and knows nothing yet."""
    causal = deepcopy(policy)
    causal = causal.unload() if hasattr(causal, "peft_config") else causal
    share_prompts(causal)
    width = causal.get_output_embeddings().weight.shape[1]
    return Critic(causal.base_model, _head(width), "policy", why=why, lora=lora, seed=seed)


def _of_model(model: RewardModel, start: str, *, keep_head: bool, **options: Any) -> Critic:
    classifier = deepcopy(model.classifier)
    if hasattr(classifier, "peft_config"):
        classifier = classifier.merge_and_unload()
    own = classifier.get_submodule(model.head_name)
    head = _head(own.in_features, own if keep_head else None)
    return Critic(classifier.base_model, head, start, gives_reward=keep_head, **options)


def _head(width: int, like: nn.Linear | None = None) -> nn.Linear:
    """A head with a bias: that of a reward model, or 0."""
    head = nn.Linear(width, 1)
    with torch.no_grad():
        for name, parameter in head.named_parameters():
            own = getattr(like, name, None)
            parameter.zero_() if own is None else parameter.copy_(own)
    return head


def _unfit(loaded: store.Loaded, policy: Any, tokenizer: Any, longest: int) -> str | None:
    """Why a model cannot read what the policy writes; None where it can."""
    model = loaded.model
    if isinstance(model.kind, ComparingKind) or model.pool != "last":
        return "is no decoder that reads one answer"
    wanted, known = tokenizer.get_vocab(), loaded.tokenizer.get_vocab()
    foreign = [token for token, id in sorted(wanted.items()) if known.get(token) != id]
    if foreign:
        return f"has other ids for {len(foreign):,} of the policy's {len(wanted):,} tokens ({foreign[0]!r})"
    rows, ids = (one.get_input_embeddings().num_embeddings for one in (model.inner, policy))
    if rows < ids:
        return f"has embeddings for {rows:,} ids; the policy may write {ids:,}"
    limit = model_max_length(model.inner.config, tokenizer)
    if limit is not None and limit < longest:
        return f"takes {limit:,} tokens; prompts and answers have up to {longest:,}"
    return None
