"""Results, metrics and a run's record, filled with plausible numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from holdtrue.evaluation import evaluate
from holdtrue.records import Answer, Comparison, Group, Message, Source
from holdtrue.settings import EvaluationSettings

_WORDS = ["the", "kettle", "router", "does", "not", "start", "please", "unplug", "wait", "again", "thanks"]


def _text(rng: np.random.Generator, words: int) -> str:
    return " ".join(rng.choice(_WORDS, size=max(1, words))) + "."


def make_result(seed: int = 0, count: int = 400, name: str = "eval") -> dict[str, Any]:
    """An evaluation of a model that is right about two times in three and likes length a little."""
    rng = np.random.default_rng(seed)
    groups, rewards = [], []
    for line in range(1, count + 1):
        words = rng.gamma(2.0, 20.0, size=2).astype(int) + 1
        quality = rng.normal(size=2)
        noise = rng.normal(size=2)
        answers = tuple(Answer((Message("assistant", _text(rng, n)),)) for n in words)
        label = float(quality[0] + 0.4 * rng.normal() > quality[1])
        prompt = (Message("user", f"{_text(rng, 9)} ({line})"),)
        meta = {
            "product": str(rng.choice(["kettle", "router", "lamp", "phone", "heater"])),
            "tone": str(rng.choice(["angry", "calm"])),
        }
        source = Source("pairs.jsonl", line)
        groups.append(Group(prompt, answers, (Comparison(0, 1, label),), meta, source))
        rewards.append((0.7 * quality + 0.6 * noise + 0.006 * words).astype(np.float32))
    rewards[3][0] = np.nan
    return evaluate(groups, rewards, EvaluationSettings(), name, {"longer than max_length": 1})


def make_metrics(steps: int = 240) -> list[dict[str, Any]]:
    rng = np.random.default_rng(1)
    rows: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        progress = 1 - math.exp(-step / 70)
        rows.append(
            {
                "event": "train",
                "step": step,
                "loss": 0.69 - 0.12 * progress + 0.05 * float(rng.normal()),
                "accuracy": float(np.clip(0.5 + 0.18 * progress + 0.09 * rng.normal(), 0, 1)),
                "skipped": int(step > 100),
            }
        )
        if step % 24 == 0:
            rows.append(
                {
                    "event": "eval",
                    "step": step,
                    "loss": 0.69 - 0.09 * progress,
                    "accuracy": 0.5 + 0.16 * progress,
                }
            )
    return rows


INFO: dict[str, Any] = {
    "holdtrue": "0.1.0",
    "torch": "2.13.0",
    "command": ["holdtrue", "train", "pairs.jsonl"],
    "started": "2026-01-02T03:04:05+00:00",
    "status": "finished",
    "seconds": 431.2,
    "model": {
        "path": "tiny",
        "architecture": "LlamaForSequenceClassification",
        "parameters": 260032,
        "layout": "tree",
        "layout_reason": None,
        "device": "cpu",
    },
    "data": {
        "train": {
            "files": [{"path": "pairs.jsonl", "sha256": "ab" * 32, "rows": 4000, "kept": 3982}],
            "rows": 4000,
            "kept": 3982,
            "rejected": {"not valid JSON": 11, "no field 'chosen'": 7},
            "repaired": {"lone surrogates replaced": 2},
            "dropped": {"longer than max_length": 1204, "identical answers": 3},
            "cut": {},
            "comparisons": 2775,
            "prompts": 2611,
        },
        "eval": {
            "files": [],
            "rows": 400,
            "kept": 400,
            "rejected": {},
            "dropped": {"longer than max_length": 121},
        },
    },
    "steps": 240,
    "best_step": 216,
    "stopped_early": False,
    "model_hash": "0123456789abcdef",
    "settings_hash": "fedcba9876543210",
}
