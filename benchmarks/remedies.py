"""What the doctor's remedies do where that can be measured in a minute on one core.

    python benchmarks/remedies.py [--tokenizers FOLDER] [--answers rollout_doctor/dev.jsonl.gz]

1. neutralise: control tokens that real tokenizers see in a user's text, before and after.
2. rebalance and recovery: a bigram model counted from rows with a bad habit, ``END (IM NL)^1..6 EOS`` in 10 %
   of them: how often the habit begins, and how often it goes on.
3. GRPO on a tabular policy that begins with this habit and a reward that cannot see it: loops after 0 and 120
   steps with each remedy, 8 seeds. A table has no self-reinforcement of large models: it says what a remedy's
   gradient does, not what a run will.
4. drop_repetitive: which labelled answers would go, were they targets.
5. ngram_penalty: how well it, and the share of repeated 3-grams of the whole answer (TRL's), tell loops from
   healthy answers.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdtrue.doctor.remedies.drop_repetitive import DropRepetitive
from holdtrue.doctor.remedies.junk_advantage import JunkAdvantage
from holdtrue.doctor.remedies.neutralise import Neutralise
from holdtrue.doctor.remedies.ngram_penalty import NgramPenalty
from holdtrue.doctor.remedies.rebalance import Rebalance
from holdtrue.doctor.remedies.recovery import Recovery

SURROUNDINGS = ("{}", "Look: {} is a token.", "a{}b", "\n{}\n", "`{}`{}")
Rows = list[dict[str, Any]]
Floats = NDArray[np.float64]
Ids = NDArray[np.intp]


def neutralised(folder: Path) -> dict[str, dict[str, int]]:
    """By tokenizer: added tokens, texts that hold one, those that have its id before and after."""
    from transformers import AutoTokenizer

    result = {}
    for place in sorted(path.parent for path in folder.glob("*/tokenizer.json")):
        tokenizer = AutoTokenizer.from_pretrained(place, local_files_only=True)
        tokens = [token.content for token in tokenizer.added_tokens_decoder.values()]
        remedy = Neutralise(tokens=tuple(tokens))
        texts = [around.format(token, token) for token in tokens for around in SURROUNDINGS]
        result[place.name] = {
            "tokens": len(tokens),
            "texts": len(texts),
            "before": sum(bool(remedy.control_ids(tokenizer, text)) for text in texts),
            "after": sum(bool(remedy.control_ids(tokenizer, remedy.text(text))) for text in texts),
        }
    return result


def habitual(count: int = 10_000, share: float = 0.1, seed: int = 0) -> Rows:
    """Rows ``CALL x . END``, of which a share goes on ``(IM NL)^1..6``; an answer's end is EOS."""
    draw = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        junk = " IM NL" * int(draw.integers(1, 7)) if draw.random() < share else ""
        rows.append({"prompt": "go ", "completion": f"CALL x{draw.integers(8)} . END{junk}"})
    return rows


def bigrams(rows: Rows) -> dict[str, float]:
    """P(habit begins) = P(IM | END) and P(it goes on) = P(IM | NL), counted where the loss falls."""
    counts: Counter[tuple[str, str]] = Counter()
    for row in rows:
        before, learned = row["prompt"].split(), [*row["completion"].split(), "EOS"]
        weight = row.get("weight", 1.0)
        for last, token in zip([*before[-1:], *learned], learned, strict=False):
            counts[last, token] += weight

    def chance(token: str, last: str) -> float:
        total = sum(count for (at, _), count in counts.items() if at == last)
        return counts[last, token] / total if total else 0.0

    return {"begins": chance("IM", "END"), "goes on": chance("IM", "NL")}


def counted() -> dict[str, dict[str, float]]:
    """The count model after each data remedy."""
    rows = habitual()
    lighter, _ = Rebalance(pattern="IM").apply(rows)
    weighted, _ = Rebalance(pattern="IM", by="weight").apply(rows)
    exits = Recovery(loop=" IM NL")
    arms = {
        "raw": rows,
        "rebalance (drop)": lighter,
        "rebalance (weight)": weighted,
        "recovery": exits.apply(rows)[0],
        "rebalance, recovery": exits.apply(lighter)[0],
    }
    return {name: bigrams(changed) for name, changed in arms.items()}


PROMPTS, LENGTH, GROUP, BATCH = 8, 24, 8, 16
CALL, END, IM, NL, EOS, START = 8, 9, 10, 11, 12, 13
WIDTH = 14
ARMS = ("blind", "kl 0.05", "veto", "junk_advantage 0", "junk_advantage 0.5", "ban", "rebalanced start")


class Table:
    """A policy: logits of the next token by (prompt, last token)."""

    def __init__(self, habit: float) -> None:
        chances = np.full((PROMPTS, WIDTH, WIDTH), 1e-3)
        for prompt in range(PROMPTS):
            chances[prompt, START, CALL] = 1
            chances[prompt, CALL, :PROMPTS] = 0.5 / PROMPTS
            chances[prompt, CALL, prompt] = 0.5
            chances[prompt, :PROMPTS, END] = 1
            chances[prompt, END, [IM, EOS]] = habit, 1 - habit
            chances[prompt, IM, NL] = 1
            chances[prompt, NL, [IM, EOS]] = 0.71, 0.29
        self.logits = np.log(chances)

    def log_p(self, banned: tuple[int, ...] = ()) -> Floats:
        """(P, W, W) log-probabilities."""
        allowed = self.logits.copy()
        allowed[..., [START, *banned]] = -30.0
        top = allowed - allowed.max(-1, keepdims=True)
        return top - np.log(np.exp(top).sum(-1, keepdims=True))


def drawn(log_p: Floats, prompts: Ids, draw: np.random.Generator) -> Ids:
    """(N, LENGTH) tokens; EOS fills the rest."""
    tokens = np.full((len(prompts), LENGTH), EOS)
    last = np.full(len(prompts), START)
    open_ = np.ones(len(prompts), dtype=bool)
    for at in range(LENGTH):
        cumulative = np.exp(log_p[prompts, last]).cumsum(-1)
        token = (draw.random((len(prompts), 1)) * cumulative[:, -1:] > cumulative).sum(-1)
        tokens[open_, at] = token[open_]
        open_ &= token != EOS
        last = token
    return tokens


def junk(tokens: Ids) -> NDArray[np.bool_]:
    """Where IM and NL stand."""
    return (tokens == IM) | (tokens == NL)


def correct(tokens: Ids, prompts: Ids) -> Floats:
    """1 where the answer, read up to END, is right: what comes behind is not looked at."""
    return ((tokens[:, 0] == CALL) & (tokens[:, 1] == prompts) & (tokens[:, 2] == END)).astype(float)


def trained(arm: str, seed: int, steps: int = 120, rate: float = 2.0) -> tuple[float, float, float]:
    """Share of looping answers before and after, and of right ones after, without any ban."""
    draw = np.random.default_rng(seed)
    policy = Table(0.005 if arm == "rebalanced start" else 0.1)
    reference = policy.log_p()
    banned = (IM, NL) if arm == "ban" else ()
    everyone = np.repeat(np.arange(PROMPTS), 500)

    def loops() -> float:
        return float(junk(drawn(policy.log_p(), everyone, draw)).any(-1).mean())

    before = loops()
    for _ in range(steps):
        prompts = np.repeat(draw.integers(PROMPTS, size=BATCH), GROUP)
        log_p = policy.log_p(banned)
        tokens = drawn(log_p, prompts, draw)
        reward = correct(tokens, prompts)
        if arm == "veto":
            reward = np.where(junk(tokens).any(-1), 0.0, reward)
        groups = reward.reshape(BATCH, GROUP)
        spread = groups.std(-1, keepdims=True)
        advantage = ((groups - groups.mean(-1, keepdims=True)) / (spread + 1e-4)).reshape(-1, 1)
        advantage = np.broadcast_to(advantage, tokens.shape).copy()
        if arm.startswith("junk_advantage"):
            advantage = JunkAdvantage(least=float(arm.split()[1])).mask(advantage, junk(tokens))
        last = np.concatenate([np.full((len(tokens), 1), START), tokens[:, :-1]], axis=1)
        live = last != EOS
        where = (np.repeat(prompts, LENGTH)[live.ravel()], last[live])
        chances = np.exp(log_p[where])
        toward = -chances
        toward[np.arange(len(toward)), tokens[live]] += 1
        gradient = np.zeros_like(policy.logits)
        np.add.at(gradient, where, toward * advantage[live][:, None] / live.sum())
        if arm.startswith("kl"):
            ratio = log_p[where] - reference[where]
            pull = chances * (ratio - (chances * ratio).sum(-1, keepdims=True))
            np.add.at(gradient, where, -float(arm.split()[1]) * pull / live.sum())
        policy.logits += rate * gradient * (PROMPTS * 4)
    right = float(correct(drawn(policy.log_p(), everyone, draw), everyone).mean())
    return before, loops(), right


def policies(seeds: int = 8) -> dict[str, dict[str, Any]]:
    """By arm: loops before, the mean and the range of loops after, and the mean of right answers."""
    result = {}
    for arm in ARMS:
        runs = [trained(arm, seed) for seed in range(seeds)]
        before, after, right = (np.array([run[part] for run in runs]) for part in range(3))
        result[arm] = {
            "before": round(float(before.mean()), 3),
            "after": round(float(after.mean()), 3),
            "range": [round(float(after.min()), 3), round(float(after.max()), 3)],
            "right": round(float(right.mean()), 3),
        }
    return result


def dropped(path: Path) -> dict[str, str]:
    """By kind of answer, how many of them go."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [row for row in map(json.loads, lines) if not row["ambiguous"]]
    kept, _ = DropRepetitive(most=1).apply(rows)
    before, after = (Counter(row["kind"] for row in part) for part in (rows, kept))
    return {kind: f"{count - after[kind]} of {count}" for kind, count in sorted(before.items())}


def separated(path: Path) -> dict[str, Any]:
    """Share of loops above what 1 % of healthy answers exceed, for the whole answer and for its end; and who
    pays at the defaults. Tokens are words and marks."""
    word = re.compile(r"\w+|[^\w\s]")
    remedy = NgramPenalty()
    seen: dict[str, list[tuple[float, float, float]]] = {"loops": [], "hard negatives": [], "normal": []}
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            kind = "hard negatives" if row["kind"].startswith("hard") else row["kind"]
            kind = "loops" if "loop" in kind else kind
            if row["ambiguous"] or kind not in seen:
                continue
            ids = [hash(token) & 0xFFFFFFFF for token in word.findall(row["completion"])]
            grams = max(len(ids) - 2, 1)
            whole = 1 - len(set(zip(ids, ids[1:], ids[2:], strict=False))) / grams
            seen[kind].append((whole, remedy.repetition(ids), remedy.penalty(ids)))
    tables = {kind: np.array(values) for kind, values in seen.items()}
    healthy = np.concatenate([tables["hard negatives"], tables["normal"]])
    limits = np.quantile(healthy[:, :2], 0.99, axis=0)
    above = (tables["loops"][:, :2] > limits).mean(0).round(3).tolist()
    return {
        "rows": {kind: len(values) for kind, values in tables.items()},
        "loops above 99 % of healthy": {"whole answer": above[0], "its end": above[1]},
        "that is above": limits.round(3).tolist(),
        "pays": {kind: round(float((values[:, 2] < 0).mean()), 3) for kind, values in tables.items()},
    }


def main() -> None:
    """Measure, and print JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokenizers", type=Path, help="folders of tokenizers")
    parser.add_argument("--answers", type=Path, help="labelled answers")
    given = parser.parse_args()
    result: dict[str, Any] = {"data": counted(), "policies": policies()}
    if given.tokenizers:
        result["neutralise"] = neutralised(given.tokenizers)
    if given.answers:
        result["drop_repetitive"] = dropped(given.answers)
        result["ngram_penalty"] = separated(given.answers)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
