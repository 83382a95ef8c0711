"""``holdtrue doctor ablate`` on a tiny policy with a habit: the ban helps, paired by prompt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from holdtrue.cli.doctor.fix import remedied_rows
from holdtrue.cli.main import run
from holdtrue.doctor.rollouts import examine
from holdtrue.experiments.rerolls import Rerolled, Variant, compare
from holdtrue.policy.decoding import Decoding
from holdtrue.records import Rollout

PROMPTS = ["a", "b", "c", "d", "e", "f"]


@pytest.fixture
def policy(tmp_path: Path, byte_tokenizer: Any) -> Path:
    """Answers with a letter, then one time in two <|im_start|>, then its end."""
    tokenizer = byte_tokenizer(chat_template=None)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=2,
    )
    model = LlamaForCausalLM(config)
    texts = [f"{letter}{letter}{habit}<|im_end|>" for letter in PROMPTS for habit in ("", "<|im_start|>")]
    rows = [tokenizer(text)["input_ids"] for text in texts]
    width = max(map(len, rows))
    ids = torch.tensor([row + [2] * (width - len(row)) for row in rows])
    labels = ids.masked_fill(ids == 2, -100)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(80):
        optimizer.zero_grad()
        model(ids, attention_mask=(ids != 2).long(), labels=labels).loss.backward()
        optimizer.step()
    folder = tmp_path / "policy"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_ban_of_control_tokens_is_shown_to_help(tmp_path, policy, capsys):
    file = tmp_path / "prompts.jsonl"
    rows = "".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS)
    file.write_text(rows + "not JSON\n" + '{"answer": "alone"}\n')
    arguments = ["doctor", "ablate", str(policy), str(file), "--fix", "ban_control", "--answers", "8"]
    assert run([*arguments, "--max-new-tokens", "8", "--json"]) == 0
    said = capsys.readouterr()
    assert "Loading weights" not in said.err  # a bar of transformers for each fix
    value = json.loads(said.out)
    base, ban = value["variants"]
    assert (value["prompts"], base["answers"], base["variant"]) == (6, 48, "as it is")
    assert value["unreadable"] == {"not JSON": 1, "no prompt": 1}
    assert base["by_detector"]["ctrl_token_in_body"] > 10  # the habit stands in half of what it learned
    assert "ctrl_token_in_body" not in ban["by_detector"]
    assert ban["mended"] > 10 and ban["broken"] == 0
    assert ban["difference_interval"][1] < 0
    assert run([*arguments, "--max-new-tokens", "8", "-o", str(tmp_path / "pages")]) == 0
    shown = capsys.readouterr().out
    assert "mended" in shown and "not read: 1 rows, no prompt" in shown
    assert {page.name for page in (tmp_path / "pages").iterdir()} == {"as_it_is.html", "ban_control.html"}


def test_differences_are_paired_by_prompt():
    def rerolled(name: str, sick: set[int]) -> Rerolled:
        rows = [Rollout(f"prompt {i // 2}", "" if i in sick else "fine", policy=name) for i in range(8)]
        return Rerolled(Variant(name, Path(), Decoding()), examine(rows))

    found = compare(rerolled("base", {0, 1, 2}), rerolled("fix", {2, 4}))
    # by prompt: (0+0)-(1+1) = -1, 0-0 with one each = 0, +1/2, 0
    assert found["difference"] == pytest.approx((-1 + 0 + 0.5 + 0) / 4)
    assert (found["mended"], found["broken"], found["degenerate"]) == (2, 1, 2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--fix", "nothing"], "unknown fix 'nothing'"),
        (["--fix", "temperature=hot"], "temperature is a number above 0"),
        (["--fix", "drop_control"], "fix drop_control changes the training; it needs --train FILE"),
        (["--fix", "training.max_steps=3"], "training.max_steps=3 changes the training; it needs --train"),
        (["--set", "training.max_steps=3"], "--set training.max_steps=3 is of the training; give it with"),
    ],
)
def test_wrong_fixes_end_in_one_line(tmp_path, policy, capsys, arguments, words):
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "a"}\n')
    assert run(["doctor", "ablate", str(policy), str(file), *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert words in error and len(error.splitlines()) == 1


def test_a_data_remedy_is_trained_and_compared(tmp_path, policy, capsys):
    prompts, rows = tmp_path / "prompts.jsonl", tmp_path / "rows.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS))
    talks = [
        {"prompt": p, "completion": p + ("<|im_start|>" if i % 2 else "")} for p in PROMPTS for i in range(10)
    ]
    rows.write_text("".join(json.dumps(row) + "\n" for row in talks))
    arguments = ["doctor", "ablate", str(policy), str(prompts), "--train", str(rows), "--fix", "rebalance"]
    more = ["--set", "training.learning_rate=1e-2", "--set", "data.eval_fraction=0", "--answers", "8"]
    assert run([*arguments, *more, "--max-new-tokens", "8", "--json"]) == 0
    base, rebalanced = json.loads(capsys.readouterr().out)["variants"]
    assert rebalanced["variant"] == "rebalance"
    assert base["by_detector"]["ctrl_token_in_body"] > rebalanced["by_detector"].get("ctrl_token_in_body", 0)


def test_rows_that_a_remedy_cannot_read_are_counted(tmp_path):
    file = tmp_path / "sft.jsonl"
    row = {"prompt": "a", "completion": "b"}
    file.write_text(json.dumps(row) + "\nnot JSON\n\n" + json.dumps(row) + "\n")
    rows, changed = remedied_rows([str(file)], ["dedupe"])
    assert rows == [row]
    assert changed[0] == {"remedy": "not read, left out", "counts": {"not JSON": 1}, "examples": []}
    assert [one["remedy"] for one in changed] == ["not read, left out", "dedupe"]
