"""Fine-tuning: the loss is the field's, the policy learns to stop, and a run is as safe as any other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from holdtrue import job, settings
from holdtrue.data.examples import read_examples
from holdtrue.doctor.checks.template import stop_in_loss
from holdtrue.doctor.checks.tokenizer import eos_set_agreement, pad_is_eos
from holdtrue.doctor.subject import Subject
from holdtrue.errors import DataError, Interrupted, ModelError, SettingsError
from holdtrue.policy import model as policies
from holdtrue.policy import sft
from holdtrue.policy.sft_losses.distillation import Distillation
from holdtrue.policy.sft_losses.likelihood import Likelihood
from holdtrue.policy.sft_settings import PolicySettings, build
from holdtrue.reward.model import RewardOutput
from holdtrue.rundir import RunDir
from holdtrue.tokens.batches import targets_of
from holdtrue.tokens.tree import Tree, Verdict, grow

END = 1
RECIPE = Path(__file__).parents[2] / "recipes" / "sft.yaml"
ROWS = [{"prompt": f"{k}?", "completion": "ab" * (1 + k % 3)} for k in range(50)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return file


@pytest.fixture
def start(base_model: Callable[..., Path], data: Path, tmp_path: Path) -> Callable[..., RunDir]:
    """A new run on 50 short rows; keywords are settings of its training."""

    def started(name: str = "run", lora: Any = None, loss: Any = "likelihood", **training: Any) -> RunDir:
        values = {
            "model": {"path": str(base_model()), "lora": lora},
            "data": {"train": [str(data)]},
            "loss": loss,
            "training": {"bf16": False, "max_steps": 6, "eval_steps": 3, "save_steps": 1, **training},
        }
        return job.begin(build(values), tmp_path / name)

    return started


def tree(ids: list[int], marks: list[int], weight: float = 1.0) -> Tree:
    return grow([np.array(ids, np.int32)], verdicts=[Verdict((weight,))], marks=[tuple(marks)])


TREES = [tree([5, 6, 7, 1], [2, 3]), tree([9, 8, 7, 6, 5, 4, 1], [3, 4, 5, 6]), tree([3, 1], [1])]


def outcome(run: RunDir) -> dict[str, Any]:
    """Everything of a run but times."""
    times = {"seconds", "tokens_per_second"}
    rows = [{key: value for key, value in row.items() if key not in times} for row in run.metrics()]
    return {"metrics": rows, "weights": run.info()["model_hash"]}


def gradients(model: Any, loss: Any, budget: int) -> tuple[sft.TokenSums, dict[str, torch.Tensor]]:
    model.zero_grad()
    batches = (model.batch([TREES[i] for i in part]) for part in model.pack(TREES, budget))
    sums = sft.step(model, loss, batches)
    return sums, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_loss_and_gradient_are_those_of_transformers_on_the_same_labels(
    base_model: Callable[..., Path], family: str
) -> None:
    folder = base_model(model_type=family)
    model = policies.load(PolicySettings(path=str(folder))).model
    sums, found = gradients(model, Likelihood(), 1000)
    ids, labels = torch.full((3, 7), 2), torch.full((3, 7), -100)
    for row, one in enumerate(TREES):
        sequence = torch.from_numpy(one.answers[0].astype(np.int64))
        ids[row, : len(sequence)] = sequence
        labels[row, list(one.marks[0])] = sequence[list(one.marks[0])]
    plain = AutoModelForCausalLM.from_pretrained(folder)
    mask = (torch.arange(7) < torch.tensor([[4], [7], [2]])).long()
    expected = plain(input_ids=ids, attention_mask=mask, labels=labels).loss
    assert sums.weight == 7  # learned tokens
    assert sums.loss / sums.weight == pytest.approx(expected.item(), abs=1e-6)
    expected.backward()
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(found[f"classifier.{name}"] / 7, parameter.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("layout", ["tree", "padded"])
def test_neither_passes_nor_padding_change_sums_or_gradients(
    base_model: Callable[..., Path], layout: str
) -> None:
    model = policies.load(PolicySettings(path=str(base_model()))).model
    whole, expected = gradients(model, Likelihood(), 1000)
    if layout == "padded":
        model.inner.set_attn_implementation("eager")
        model.layout = "padded"
    parts, found = gradients(model, Likelihood(), 1)
    assert len(model.pack(TREES, 1)) == 3 and model.layout == layout
    assert parts.values() == pytest.approx(whole.values(), abs=1e-5)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


def test_weights_of_examples_and_idle_passes_by_hand() -> None:
    trees = [tree([5, 1], [1], weight=3.0), tree([5, 6, 1], [1, 2])]
    out = RewardOutput(
        logprobs=torch.tensor([0.5, 0.25, 0.5]).log(), divergence=torch.tensor([1.0, 2.0, 3.0])
    )
    targets = targets_of(trees)
    terms = Likelihood()(out, targets)
    # weights 3, 1, 1; (3 log 2 + log 4 + log 2) / 5 = 6/5 log 2
    assert terms.weights.tolist() == [3, 1, 1]
    total = (terms.terms * terms.weights).sum() / terms.weights.sum()
    assert total.item() == pytest.approx(6 / 5 * log(2))
    # 3/4 of the data's terms and a quarter of the divergence: of the first, 3/4 log 2 + 1/4
    distilled = Distillation(reference="x", weight=0.25)(out, targets)
    assert distilled.terms[0].item() == pytest.approx(0.75 * log(2) + 0.25)
    targets.silence()
    assert Likelihood()(out, targets).weights.tolist() == [0, 0, 0]


def test_divergence_is_the_kl_of_the_two_models_and_nothing_of_the_reference_is_trained(
    base_model: Callable[..., Path],
) -> None:
    path = str(base_model())
    loaded = policies.load(PolicySettings(path=path))
    model, reference = loaded.model, policies.load_reference(path, loaded)
    assert isinstance(model, policies.Policy)
    model.compare_with(reference)
    assert model(model.batch(TREES)).divergence.abs().max() < 1e-6
    with torch.no_grad():
        reference.classifier.model.layers[0].mlp.down_proj.weight.mul_(3.0)
    out = model(model.batch(TREES[:1]))
    ids = torch.from_numpy(TREES[0].answers[0].astype(np.int64))[None]
    with torch.no_grad():
        mine, theirs = (
            AutoModelForCausalLM.from_pretrained(path)(ids).logits,
            reference.classifier.eval()(ids, attention_mask=None).logits,
        )
    p, q = theirs.log_softmax(-1)[0, 1:3], mine.log_softmax(-1)[0, 1:3]
    torch.testing.assert_close(out.divergence, (p.exp() * (p - q)).sum(-1), rtol=1e-4, atol=1e-6)
    _, found = gradients(model, Distillation(reference="x", weight=1.0), 1000)
    assert found and all(p.grad is None for p in reference.parameters())
    assert not any("reference" in name for name, _ in model.named_parameters())


def test_a_policy_distilled_alone_comes_closer_to_its_reference(
    start: Callable[..., RunDir], base_model: Callable[..., Path]
) -> None:
    reference = base_model("reference", initializer_range=0.05)
    loss = {"kind": "distillation", "reference": str(reference), "weight": 1.0}
    run = start(loss=loss, max_steps=12, learning_rate=3e-3)
    sft.train(run)
    rows = [row["loss"] for row in run.metrics() if row["event"] == "train"]
    assert rows[-1] < rows[0] / 2


def test_a_policy_learns_to_stop_and_its_folder_is_healthy(
    start: Callable[..., RunDir], data: Path, base_model: Callable[..., Path]
) -> None:
    run = start(max_steps=60, learning_rate=1e-2, eval_steps=20, save_steps=60)
    sft.train(run)
    tokenizer = AutoTokenizer.from_pretrained(run.model)

    def written(folder: Path) -> list[int]:
        """New tokens of greedy answers to prompts, the end counted; 40 where there is none."""
        model = AutoModelForCausalLM.from_pretrained(folder)
        found = []
        for row in ROWS[:4]:
            ids = tokenizer.apply_chat_template(
                [{"role": "user", "content": row["prompt"]}], add_generation_prompt=True, return_tensors="pt"
            )["input_ids"]
            made = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=40, do_sample=False
            )
            found.append(made.shape[1] - ids.shape[1])
        return found

    assert written(base_model()) == [40] * 4
    assert max(written(run.model)) < 12  # "ababab" and the stop are 7
    examples, _ = read_examples([str(data)])
    subject = Subject(run.model, examples=examples)
    for check in (eos_set_agreement, pad_is_eos, stop_in_loss):
        assert [finding.severity for finding in check(subject)] == ["ok"], check
    assert AutoModelForCausalLM.from_pretrained(run.model).generation_config.eos_token_id == END
    assert run.info()["model"]["stops"] == {"<|im_end|>": END}


def test_every_stop_learned_is_declared_beside_those_of_before_and_padding_is_none_of_them(
    base_model: Callable[..., Path], byte_tokenizer: Callable[..., Any], tmp_path: Path
) -> None:
    # turns end with <|im_end|>; the tokenizer ends and pads with another token, as base models do
    tokenizer = byte_tokenizer(
        eos_token="<|pad|>", pad_token="<|pad|>", additional_special_tokens=["<|im_end|>"]
    )
    loaded = policies.load(
        PolicySettings(path=str(base_model(tokenizer=tokenizer, vocab_size=264, eos_token_id=2)))
    )
    policies.publish(loaded, tmp_path / "saved", [END])
    generation = json.loads((tmp_path / "saved" / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [END, 2]
    saved = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert (saved.eos_token, saved.pad_token_id) == ("<|im_end|>", 2)
    subject = Subject(tmp_path / "saved")
    assert [finding.severity for finding in (*eos_set_agreement(subject), *pad_is_eos(subject))] == [
        "ok",
        "ok",
    ]


def test_with_lora_adapters_alone_are_trained_and_saved(
    start: Callable[..., RunDir], base_model: Any
) -> None:
    run = start(lora={"r": 2})
    sft.train(run)
    assert run.info()["model"]["trainable"] < run.info()["model"]["parameters"] / 5
    assert (run.model / "adapter_config.json").exists() and (run.model / "generation_config.json").exists()
    saved = load_file(run.model / "adapter_model.safetensors")
    assert saved and all("lora_" in name for name in saved)
    assert any(value.abs().max() > 0 for name, value in saved.items() if "lora_B" in name)
    merged = start("merged", lora={"r": 2, "merge": True})
    sft.train(merged)
    assert not (merged.model / "adapter_config.json").exists()
    ids = torch.tensor([[5, 6, 7]])
    one = policies.load(PolicySettings(path=str(run.model))).model.classifier.eval()
    other = AutoModelForCausalLM.from_pretrained(merged.model)
    torch.testing.assert_close(one(ids).logits, other(ids).logits, rtol=1e-4, atol=1e-5)


def test_a_run_stopped_and_resumed_equals_one_left_in_peace_bit_for_bit(start: Callable[..., RunDir]) -> None:
    peace, run = start("peace"), start()
    sft.train(peace)
    seen: list[int] = []
    with pytest.raises(Interrupted, match="stopped after step 4 of 6"):
        sft.train(run, tell=lambda event, row: seen.append(row.get("step", 0)), stop=lambda: max(seen) >= 3)
    sft.train(run)
    assert outcome(run) == outcome(peace)


def test_two_processes_have_the_curve_of_one(start: Callable[..., RunDir]) -> None:
    alone, together = start("alone"), start("together", processes=2)
    sft.train(alone)
    environment = {name: value for name, value in os.environ.items() if name != "RANK"}
    command = [sys.executable, "-m", "holdtrue", "resume", str(together.path), "--json"]
    child = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)
    assert child.returncode == 0, child.stderr
    value = json.loads(child.stdout)
    assert value["steps"] == 6 and value["stops"] == {"<|im_end|>": END}
    assert together.info()["processes"] == 2
    for one, other in zip(alone.metrics(), together.metrics(), strict=True):
        assert (one["event"], one["step"]) == (other["event"], other["step"])
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-5)


def test_rows_of_metrics_speak_of_tokens_and_examples_not_of_rewards(start: Callable[..., RunDir]) -> None:
    run = start(train_batch_size=4, max_steps=2, early_stopping_patience=1)
    sft.train(run)
    first = run.metrics()[0]
    assert first["examples"] == 4 and {"reward_mean", "margin", "comparisons"}.isdisjoint(first)
    assert 0 <= first["accuracy"] <= 1 and first["learned_tokens"] >= 4 * 3
    counts = run.info()["data"]
    assert counts["train"]["answers"] + counts["eval"]["answers"] == 50
    assert counts["train"]["layouts"] == {"prompt and completion": 50}


def test_settings_that_cannot_be_are_refused_in_one_line(
    start: Callable[..., RunDir], base_model: Any
) -> None:
    for values, said in [
        ({"data": {"turn": "all"}}, "did you mean 'data.turns'"),
        ({"loss": "likelyhood"}, "did you mean 'likelihood'"),
        ({"loss": {"kind": "distillation"}}, "reference"),
        ({"training": {"parallel": "fsdp"}}, "should be 'data', got 'fsdp'"),
        ({"training": {"method": "ridge"}}, "should be 'gradient', got 'ridge'"),
    ]:
        with pytest.raises(SettingsError, match=said):
            build(values)
    run = start(loss={"kind": "distillation", "reference": str(base_model("other"))})
    tokenizer = AutoTokenizer.from_pretrained(run.settings()["loss"]["reference"])
    tokenizer.add_tokens(["<more>"])
    tokenizer.save_pretrained(run.settings()["loss"]["reference"])
    with pytest.raises(ModelError, match=r"tokenizers of .* and its reference .* differ"):
        sft.train(run)
    with pytest.raises(SettingsError, match="fine-tunes a policy"):
        job.settings_of(run)


def test_data_of_which_nothing_is_left_or_that_changed_are_refused(
    start: Callable[..., RunDir], data: Path
) -> None:
    run = start()
    sft.train(run)
    data.write_text(data.read_text() + json.dumps(ROWS[0]) + "\n")
    with pytest.raises(DataError, match="changed since this run began"):
        sft.train(run)
    data.write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    with pytest.raises(DataError, match="no usable example left: 1 no answer to learn"):
        sft.train(start("other"))


def test_the_recipe_and_the_command_line_train_a_policy(
    base_model: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from holdtrue.cli.main import run

    head = RECIPE.read_text(encoding="utf-8").splitlines()
    row = json.loads(head[1].partition("# A row of data: ")[2])
    (tmp_path / "rows.jsonl").write_text((json.dumps(row) + "\n") * 8)
    assert head[2].startswith("# holdtrue sft recipes/sft.yaml ")
    assert build(settings.read(RECIPE)).data.turns == "all"
    arguments = ["sft", str(RECIPE), str(tmp_path / "rows.jsonl"), "--set", "training.max_steps=2"]
    assert run([*arguments, "--json"]) == 2
    assert "policy (--model PATH)" in json.loads(capsys.readouterr().out)["error"]["message"]
    output = str(tmp_path / "run")
    assert run([*arguments, "--model", str(base_model()), "--output", output, "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["steps"] == 2 and Path(value["model"], "model.safetensors").exists()
    assert run(["resume", output]) == 0  # a finished run is saved again
    assert "stops    <|im_end|> (1)" in capsys.readouterr().out
    assert run(["report", output]) == 0 and (Path(output) / "report.html").is_file()
