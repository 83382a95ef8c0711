"""The README a saved model gets: how it is loaded, what it was trained with, what its numbers mean."""

from __future__ import annotations

import json

from holdtrue.reward.card import RewardCard
from holdtrue.reward.kinds import ComparingKind


def readme(card: RewardCard, adapter: bool) -> str:
    """Text of ``README.md`` for a model saved whole, or as an adapter."""
    if isinstance(card.made_by, ComparingKind):
        return _of_comparer(card)
    loader = "AutoPeftModelForSequenceClassification" if adapter else "AutoModelForSequenceClassification"
    package = "peft" if adapter else "transformers"
    labels = f"num_labels={len(card.made_by.labels)}, " if adapter else ""
    temperature = card.calibration.get("temperature")
    calibration = (
        f"P(first answer preferred) = sigmoid((reward_first - reward_second) / {temperature:.3g}), "
        "fitted on validation pairs.\n\n"
        if temperature
        else ""
    )
    origin = f" as the mean of {len(card.averaged)} models' weights" if card.averaged else ""
    return f"""# Reward model

Trained with holdtrue {card.holdtrue}{origin} from `{card.base_model}`.
One number per conversation: higher is better.
Only differences between answers to the same prompt mean something.

```python
import torch
from {package} import {loader}
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("PATH")
model = {loader}.from_pretrained("PATH", {labels}dtype=torch.float32)
chat = [{{"role": "user", "content": "..."}}, {{"role": "assistant", "content": "..."}}]
ids = tokenizer.apply_chat_template(chat, return_tensors="pt", return_dict=True)
reward = model(**ids).logits[0, 0].item()
```

- Read token: {card.pooled.get("policy", "last real token")}, usually `{card.pooled.get("text", "?")}`.
- Longest conversation in training: {card.max_length} tokens; longer ones were handled by `{card.truncation}`.
- Loss: `{json.dumps(card.loss)}`.

{calibration}`reward_card.json` holds the rest: template hash, reference mean and std, data hashes.
"""


def _of_comparer(card: RewardCard) -> str:
    return f"""# Model that compares two answers

Trained with holdtrue {card.holdtrue} from `{card.base_model}`; kind `{card.made_by.name()}`.
It reads a prompt and two answers together and says which is better.

```
holdtrue evaluate PATH pairs.jsonl
holdtrue score PATH answers.jsonl --output scored.jsonl
```

- How a comparison is written: `{json.dumps(card.kind)}`.
- Longest comparison in training: {card.max_length} tokens; longer ones were handled by `{card.truncation}`.
- Loss: `{json.dumps(card.loss)}`.

Judge each pair in both orders and take the mean, as holdtrue does: the place of an answer counts too.
"""
