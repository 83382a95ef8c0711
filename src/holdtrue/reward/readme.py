"""The README a saved model gets: how it is loaded, what it was trained with, what its numbers mean."""

from __future__ import annotations

import json

from holdtrue.reward.card import RewardCard
from holdtrue.reward.kinds import ComparingKind

TRUNCATED = {
    "drop": "left out",
    "left": "cut at the left",
    "right": "cut at the right",
    "error": "an error",
}


def readme(card: RewardCard, adapter: bool) -> str:
    """Text of ``README.md`` for a model saved whole, or as an adapter, with code that others can run."""
    if isinstance(card.made_by, ComparingKind):
        return _of_comparer(card)
    temperature = card.calibration.get("temperature")
    calibration = (
        f"P(first answer preferred) = sigmoid((reward_first - reward_second) / {temperature:.3g}), "
        "fitted on validation pairs.\n\n"
        if temperature
        else ""
    )
    usually = f", usually `{card.pooled['text']}`" if "text" in card.pooled else ""
    turns = (
        ""
        if card.pool == "last"
        else " Several turns are one text: `User: ` or `Assistant: ` and its content, parted by blank lines."
    )
    origin = f" as the mean of {len(card.averaged)} models' weights" if card.averaged else ""
    return f"""# Reward model

Trained with holdtrue {card.holdtrue}{origin} from `{card.base_model}`.
{_reward(card)}
Only differences between answers to the same prompt mean something.

{_code(card, adapter)}

- Read: {card.pooled.get("policy", "last real token")}{usually}.{turns}
- Longest conversation in training: {card.max_length} tokens; longer ones: {TRUNCATED[card.truncation]}.
- Loss: `{json.dumps(card.loss)}`.

{calibration}`reward_card.json` holds the rest: template hash, reference mean and std, data hashes.
"""


def _reward(card: RewardCard) -> str:
    """What the reward is, where it is not the classifier's number for the whole text."""
    kind = card.made_by
    made = json.dumps(card.kind)
    if kind.marks == "steps":
        return (
            f"A number at the end of every step of the answer; the reward is made of them as `{made}` says.\n"
            "`holdtrue score` computes it. The code below gives the number at the end of its text: cut that\n"
            "at the end of a step to get the step's."
        )
    if len(kind.labels) > 1:
        return (
            f"{len(kind.labels)} numbers per conversation ({', '.join(kind.labels)}), of which the reward is "
            f"made as `{made}` says.\n`holdtrue score` computes it, the code below gives the first of them."
        )
    return "One number per conversation: higher is better."


def _code(card: RewardCard, adapter: bool) -> str:
    texts = (
        '"prompt", "answer"'
        if card.template.get("name") == "pair"
        else '"User: prompt\\n\\nAssistant: answer"'
    )
    if card.pool in ("mean", "max"):
        if adapter:
            return (
                "Only holdtrue loads this adapter: no library has a classifier that pools so. Trained with "
                "`model.lora.merge: true` it would be\na folder that sentence-transformers loads."
            )
        return f"""transformers has no such classifier; for sentence-transformers the head is the last module.

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("PATH")
reward = model.encode([[{texts}]])[0, 0]
```"""
    loader = "AutoPeftModelForSequenceClassification" if adapter else "AutoModelForSequenceClassification"
    labels = f"num_labels={len(card.made_by.labels)}, " if adapter else ""
    chat = 'chat = [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]\n'
    ids = 'tokenizer.apply_chat_template(chat, return_tensors="pt", return_dict=True)'
    if card.pool == "cls":
        chat, ids = "", f'tokenizer({texts}, return_tensors="pt")'
    return f"""```python
import torch
from {"peft" if adapter else "transformers"} import {loader}
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("PATH")
model = {loader}.from_pretrained("PATH", {labels}dtype=torch.float32).eval()
{chat}ids = {ids}
reward = model(**ids).logits[0, 0].item()
```"""


def _of_comparer(card: RewardCard) -> str:
    return f"""# Model that compares two answers

Trained with holdtrue {card.holdtrue} from `{card.base_model}`; kind `{card.made_by.name()}`.
It reads a prompt and two answers together and says which is better.

```
holdtrue evaluate PATH pairs.jsonl
holdtrue score PATH answers.jsonl --output scored.jsonl
```

- How a comparison is written: `{json.dumps(card.kind)}`.
- Longest comparison in training: {card.max_length} tokens; longer ones: {TRUNCATED[card.truncation]}.
- Loss: `{json.dumps(card.loss)}`.

Judge each pair in both orders and take the mean, as holdtrue does: the place of an answer counts too.
"""
