"""``holdtrue rl``: a policy and a reward in, an optimised policy out; what is wrong is said in a line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

import comparing
import optimising
import toy
from holdtrue.report.wording import number
from holdtrue.reward import members, store
from holdtrue.reward.card import RewardCard
from holdtrue.reward.ensemble import Ensemble, Scaled
from holdtrue.reward.implicit import Implicit
from holdtrue.rundir import RunDir, read_jsonl
from holdtrue.settings import ModelSettings

Run = Callable[..., Any]
RECIPES = Path(__file__).resolve().parents[2] / "recipes"
SHORT = [
    "--set",
    "training.max_steps=2",
    "--set",
    "decoding.max_new_tokens=6",
    "--set",
    "guard.calibration=64",
]
SHORT += ["--set", "training.learning_rate=0.01", "--set", "guard.on_hit=none"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = optimising.write(tmp_path_factory.mktemp("rl"))
    (folder / "mine.py").write_text(
        "def share(prompts, texts, completion_ids):\n"
        "    return [list(ids).count(6) / len(ids) for ids in completion_ids]\n"
        "def broken(prompts, texts, completion_ids):\n"
        "    return [1 / 0 for _ in texts]\n"
        "def nothing(prompts, texts, completion_ids):\n"
        "    return [None for _ in texts]\n",
        encoding="utf-8",
    )
    return folder


def test_a_policy_is_optimised_against_a_reward_model(
    holdtrue: Run, folder: Path, toy_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    given = [folder / "prompts.jsonl", "--model", folder / "policy", "--reward", toy_run]
    done = holdtrue("rl", *given, "--output", run, *SHORT, "--set", "data.eval_fraction=0.3", "--json")
    assert done.code == 0, done.err
    assert done.value["steps"] == 2 and done.value["reward"]["last"] is not None
    assert done.value["evaluation"]["event"] == "eval"
    assert RunDir(run).info()["status"] == "finished"
    assert done.value["report"] == str(run / "report.html")
    assert "in 2 steps" in (run / "report.html").read_text(encoding="utf-8")
    before = AutoModelForCausalLM.from_pretrained(folder / "policy")
    after = AutoModelForCausalLM.from_pretrained(run / "model")
    assert not torch.equal(before.lm_head.weight, after.lm_head.weight)
    assert AutoTokenizer.from_pretrained(run / "model").eos_token_id == 1
    assert GenerationConfig.from_pretrained(run / "model").eos_token_id == 1

    examined = holdtrue("doctor", "rollouts", run, "--tokenizer", run / "model", "--json")
    assert examined.code in (0, 4), examined.err
    drawn = list(read_jsonl(run / "rollouts.jsonl"))
    assert len(examined.value["rows"]) == len(drawn) == 64 + 2 * 32
    assert set(examined.value["rates"]["degenerate"]["by_policy"]) == {"reference", "current"}
    assert not examined.value["unreadable"] and not examined.value["skipped"].get("tail_cycle")

    again = holdtrue("resume", run, "--json")  # of a finished run: saved again from its last checkpoint
    assert again.code == 0 and again.value["steps"] == 2 and f"{run} is finished; what came" in again.err
    page = (run / "report.html").read_text(encoding="utf-8")
    for when in ("first", "last"):  # the console's reward is the page's
        assert number(again.value["reward"][when]) in page.partition("Kept")[0]
    assert list(read_jsonl(run / "rollouts.jsonl")) == drawn


@pytest.mark.parametrize("recipe", ["rl.yaml", "ppo.yaml"])
def test_a_recipe_runs_as_its_head_says(
    recipe: str, holdtrue: Run, folder: Path, toy_run: Path, tmp_path: Path
) -> None:
    head = (RECIPES / recipe).read_text(encoding="utf-8").splitlines()
    assert head[0].startswith("# ") and head[2].startswith(f"# holdtrue rl recipes/{recipe} prompts.jsonl ")
    (tmp_path / "row.jsonl").write_text(head[1].partition(": ")[2] + "\n", encoding="utf-8")
    given = [RECIPES / recipe, tmp_path / "row.jsonl", "--model", folder / "policy", "--reward", toy_run]
    done = holdtrue("rl", *given, *SHORT, "--output", tmp_path / "run", "--json")
    assert done.code == 0 and done.value["steps"] == 2, done.err
    kept = RunDir(tmp_path / "run").settings()
    written = yaml.safe_load((RECIPES / recipe).read_text(encoding="utf-8"))
    assert written["algorithm"].items() <= kept["algorithm"].items()
    assert bool(RunDir(tmp_path / "run").info()["critic"]) is (recipe == "ppo.yaml")


def test_ppo_takes_its_critic_from_the_reward_model(
    holdtrue: Run, folder: Path, toy_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    given = [folder / "prompts.jsonl", "--model", folder / "policy", "--reward", toy_run, *SHORT]
    ppo = ["--set", "algorithm=ppo", "--set", "algorithm.entropy_coef=0.01"]
    done = holdtrue("rl", *given, *ppo, "--output", run)
    assert done.code == 0 and f"critic   from {toy_run}, " in done.err, done.err
    assert "critic   explains " in done.out and "of the variance of returns" in done.out
    facts = RunDir(run).info()["critic"]
    assert facts["start"] == str(toy_run) and facts["learning_rate"] == pytest.approx(0.1)
    assert facts["trainable"] == facts["parameters"] > 0
    last = RunDir(run).metrics()[-1]
    assert {"value_loss", "value_clip_fraction", "explained_variance", "entropy"} <= last.keys()
    drawn = (run / "rollouts.jsonl").read_bytes()
    again = holdtrue("resume", run, "--json")
    assert again.code == 0 and again.value["explained_variance"]["last"] == last["explained_variance"]
    assert (run / "rollouts.jsonl").read_bytes() == drawn


def test_an_adapter_is_a_policy_to_go_on_from(holdtrue: Run, folder: Path, tmp_path: Path) -> None:
    given = [folder / "prompts.jsonl", "--reward", f"{folder}/mine.py:share", *SHORT]
    lora = ["--set", "policy.lora={r: 2, alpha: 4}"]
    first = holdtrue("rl", *given, *lora, "--model", folder / "policy", "--output", tmp_path / "first")
    assert first.code == 0 and (tmp_path / "first" / "model" / "adapter_config.json").is_file()
    assert holdtrue("rl", *given, "--model", tmp_path / "first", "--output", tmp_path / "second").code == 0
    assert (tmp_path / "second" / "model" / "model.safetensors").is_file()
    refused = holdtrue(
        "rl", *given, *lora, "--model", tmp_path / "first", "--output", tmp_path / "third", "--json"
    )
    assert refused.code == 2 and "set policy.lora.merge=true" in refused.error["message"]


def test_a_critic_of_a_reward_that_is_no_model_says_why_it_starts_from_the_policy(
    holdtrue: Run, folder: Path, tmp_path: Path
) -> None:
    given = ["--model", folder / "policy", "--reward", f"{folder}/mine.py:share", *SHORT]
    given += ["--set", "algorithm=ppo", "--output", tmp_path / "run"]
    done = holdtrue("rl", folder / "prompts.jsonl", *given)
    assert f"critic   from policy (reward {folder}/mine.py:share is no model), " in done.err, done.err


def test_settings_functions_and_adapters_work_together(holdtrue: Run, folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "rl.yaml"
    file.write_text(
        "algorithm: grpo\npolicy: {lora: {r: 4, alpha: 8, merge: true}}\n"
        f"rewards:\n- {{function: '{folder}/mine.py:share', weight: 2.0}}\n"
        "training: {prompts_per_step: 4}\n",
        encoding="utf-8",
    )
    run = tmp_path / "run"
    done = holdtrue(
        "rl", file, folder / "prompts.jsonl", "--model", folder / "policy", "--output", run, *SHORT,
        "--set", "algorithm.kl_coef=0.1",
    )  # fmt: skip
    assert done.code == 0 and "reward" in done.out and "policy   PeftModel" in done.err, done.err
    kept = RunDir(run).settings()
    assert kept["algorithm"]["kind"] == "grpo" and kept["algorithm"]["kl_coef"] == 0.1
    assert (run / "model" / "model.safetensors").is_file()
    assert RunDir(run).metrics()[0]["kl"] == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "trainin.group=4"], "unknown setting 'trainin'; did you mean 'training'"),
        (["--set", "decoding.temprature=1"], "unknown setting 'decoding.temprature'; did you mean 'deco"),
        (["--set", "decoding.loop.min_cont=3"], "did you mean 'decoding.loop.min_count'"),
        (["--set", "decoding.loop=false"], "decoding.loop holds settings of its own, got False"),
        (["--set", "rewards=[{modle: x}]"], "unknown setting 'rewards.modle'; did you mean 'rewards.model'"),
        (
            ["--set", "critic.learning_rate=0.1"],
            "algorithm rloo has no critic; leave out critic, or take ppo",
        ),
        (["--set", "algorithm=ppo", "--set", "critic.path=nowhere"], "nowhere does not exist"),
        (["--set", "algorithm=ppo", "--set", "critic.rate=1"], "unknown setting 'critic.rate'"),
        (["--set", "training.group=1"], "algorithm rloo needs training.group of 2 or more"),
        (["--set", "policy.lora={dropout: 0.1}"], "lora.dropout is 0 here"),
        (
            [
                "--set",
                "training.curriculum={}",
                "--set",
                "training.group=1",
                "--set",
                "algorithm=reinforce_pp",
            ],
            "training.curriculum compares answers to a prompt: training.group of 2 or more",
        ),
        (["--set", "training.curriculum.floor=0"], "training.curriculum.floor"),
        (["--set", "guard.on_alarm=rolback"], "guard.on_alarm"),
        (["--set", "guard.max_rollbacks=0"], "guard.max_rollbacks"),
        (
            ["--set", "training.early_stopping_patience=2"],
            "training.early_stopping_patience needs held-out prompts: set data.eval_fraction above 0",
        ),
        (["--reward", "nowhere"], "nowhere does not exist"),
        (["--reward", "nowhere.py:f"], "there is no such file"),
        (["--model", "nowhere/at/all"], "nowhere/at/all"),
        (["--set", "decoding.max_new_tokens=500"], "max_new_tokens 500 leaves no room for a prompt: the"),
        (
            ["--set", "shaping.overlong_cache=7"],
            "overlong_cache 7 is above decoding.max_new_tokens, which is 6",
        ),
        (["--set", "shaping.overlong_cache=0"], "shaping.overlong_cache: should be greater than 0, got 0"),
        (["--set", "shaping.overlong_penalty=0.5"], "overlong_penalty does nothing without overlong_cache"),
    ],
)
def test_what_is_wrong_is_said_in_a_line_before_anything_is_drawn(
    holdtrue: Run, folder: Path, tmp_path: Path, arguments: list[str], said: str
) -> None:
    given = ["--model", folder / "policy", "--reward", f"{folder}/mine.py:share", *SHORT]
    done = holdtrue(
        "rl", folder / "prompts.jsonl", *given, "--output", tmp_path / "run", *arguments, "--json"
    )
    assert done.code in (2, 3) and said in done.error["message"] and "\n" not in done.error["message"]
    assert not (tmp_path / "run" / "rollouts.jsonl").exists()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that compares, an ensemble, and a policy against its reference; all with random weights."""
    made = tmp_path_factory.mktemp("models")
    base = comparing.write(made / "base", "llama")
    for seed in (1, 2):
        loaded = store.load(ModelSettings(path=str(base)), seed=seed)
        store.save(loaded, made / f"m{seed}", RewardCard())
    loaded = store.load(ModelSettings(path=str(base), kind="preference_lm"))
    store.save(loaded, made / "comparer", RewardCard())
    scaled = [
        Scaled(**members.Member.of(made / name).model_dump(), mean=0.0, std=1.0) for name in ("m1", "m2")
    ]
    ensemble = Ensemble(members=tuple(scaled), combine="mean_minus_std", scale="data")
    members.write(ensemble, made / "ensemble", members.ENSEMBLE)
    tuned = comparing.write(made / "tuned", "llama", initializer_range=0.2)
    sides = {"policy": members.Member.of(tuned), "reference": members.Member.of(base)}
    members.write(Implicit(**sides), made / "implicit", members.IMPLICIT)
    return made


@pytest.mark.parametrize("kind", ["comparer", "ensemble", "implicit"])
def test_every_sort_of_reward_model_is_a_reward_beside_functions_and_shaping(
    holdtrue: Run, folder: Path, models: Path, tmp_path: Path, kind: str
) -> None:
    given = ["--reward", models / kind, "--reward", f"{folder}/mine.py:share", *SHORT]
    more = ["--set", "data.eval_fraction=0.3", "--set", "shaping.per_token=-0.5"]
    done = holdtrue(
        "rl", folder / "prompts.jsonl", "--model", folder / "policy", *given, *more,
        "--output", tmp_path / "run", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    parts = done.value["reward_parts"]
    assert parts.keys() == {kind, "share", "length"}
    assert parts["length"]["last"] == pytest.approx(-done.value["length"]["last"] / 2)
    assert done.value["evaluation"]["reward_parts"][kind] is not None and done.value["nan_rewards"] == 0
    if kind == "comparer":
        assert parts[kind]["last"] == pytest.approx(0, abs=1e-6)  # win rates of a group, less 1/2


def test_a_model_that_compares_needs_answers_to_compare(
    holdtrue: Run, folder: Path, models: Path, tmp_path: Path
) -> None:
    given = ["--model", folder / "policy", "--reward", models / "comparer", "--output", tmp_path / "run"]
    alone = ["--set", "algorithm=reinforce_pp", "--set", "training.group=1"]
    done = holdtrue("rl", folder / "prompts.jsonl", *given, *alone, "--json")
    assert done.code == 2 and "training.group is 2 or more with it" in done.error["message"]
    assert not (tmp_path / "run").exists()


def test_too_few_answers_for_the_monitor_are_said_and_no_error(
    holdtrue: Run, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = ["--model", folder / "policy", "--reward", f"{folder}/mine.py:share", *SHORT]
    few = ["--set", "guard.calibration=8"]
    assert holdtrue("rl", folder / "prompts.jsonl", *given, "--output", tmp_path / "run", *few).code == 0
    assert "gives 8 answers, 64 are needed" in caplog.text


@pytest.mark.parametrize(
    ("function", "code", "said"),
    [
        ("broken", 3, "mine.py:broken raised ZeroDivisionError: division by zero, at answer 0"),
        ("nothing", 4, "0 of 64 rewards of reference samples are finite"),
    ],
)
def test_a_reward_that_fails_ends_the_run_and_the_run_says_so(
    holdtrue: Run, folder: Path, tmp_path: Path, function: str, code: int, said: str
) -> None:
    given = ["--model", folder / "policy", "--reward", f"{folder}/mine.py:{function}", *SHORT]
    done = holdtrue("rl", folder / "prompts.jsonl", *given, "--output", tmp_path / "run", "--json")
    assert done.code == code and said in done.error["message"]
    info = RunDir(tmp_path / "run").info()
    assert info["status"] == "failed" and said in info["error"]


def test_a_policy_without_an_end_token_is_refused(holdtrue: Run, folder: Path, tmp_path: Path) -> None:
    policy = toy.write_model(tmp_path / "endless", eos_token_id=None)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (file := policy / name).is_file():
            values = json.loads(file.read_text(encoding="utf-8"))
            values.pop("eos_token", None)
            file.write_text(json.dumps(values), encoding="utf-8")
    given = ["--model", policy, "--reward", f"{folder}/mine.py:share", *SHORT]
    done = holdtrue("rl", folder / "prompts.jsonl", *given, "--output", tmp_path / "run", "--json")
    assert done.code == 3 and "declares no end token" in done.error["message"]


def test_rows_without_a_prompt_are_listed_with_their_lines(
    holdtrue: Run, folder: Path, tmp_path: Path
) -> None:
    rows = ['{"prompt": "tell about rain ?"}', "{", '{"prompt": "tell about bees ?"}']
    rows += [json.dumps({"prompt": "tell " * 130})]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    run = tmp_path / "run"
    given = ["--model", folder / "policy", "--reward", f"{folder}/mine.py:share", *SHORT, "--output", run]
    for command in (["rl", tmp_path / "rows.jsonl", *given], ["resume", run]):  # each time, listed once
        done = holdtrue(*command)
        assert done.code == 0 and "(see rejected.jsonl, dropped.jsonl)" in done.err, done.err
        listed = [next(read_jsonl(run / f"{name}.jsonl")) for name in ("rejected", "dropped")]
        assert [row["line"] for row in listed] == [2, 4]
        assert len(list(read_jsonl(run / "rejected.jsonl"))) == 1
    assert "rejected.jsonl and dropped.jsonl" in (run / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("what", ["policy.safetensors", "state.json", "MANIFEST.json", "all"])
def test_a_broken_newest_checkpoint_is_passed_over_and_the_run_ends_the_same(
    holdtrue: Run, folder: Path, tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    given = ["--model", folder / "policy", "--reward", f"{folder}/mine.py:share", *SHORT, "--output", run]
    assert holdtrue("rl", folder / "prompts.jsonl", *given).code == 0
    drawn = (run / "rollouts.jsonl").read_bytes()
    older, newest = sorted((run / "checkpoints").iterdir())
    (newest / ("MANIFEST.json" if what == "all" else what)).write_text("x")
    if what == "all":
        (older / "policy.safetensors").unlink()
    done = holdtrue("resume", run)
    assert done.code == 0 and f"{newest} is broken and was passed over" in caplog.text
    assert ("is whole, so the run begins anew" in caplog.text) == (what == "all")
    assert (run / "rollouts.jsonl").read_bytes() == drawn


def test_prompts_that_changed_are_not_trained_on(holdtrue: Run, folder: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_bytes((folder / "prompts.jsonl").read_bytes() + b"broken\n")
    given = ["--model", folder / "policy", "--reward", f"{folder}/mine.py:share", *SHORT]
    assert holdtrue("rl", prompts, *given, "--output", tmp_path / "run").code == 0
    left_out = (tmp_path / "run" / "rejected.jsonl").read_text()
    assert left_out.count("\n") == 1
    assert holdtrue("resume", tmp_path / "run").code == 0
    assert (tmp_path / "run" / "rejected.jsonl").read_text() == left_out
    with open(prompts, "a", encoding="utf-8") as file:
        file.write('{"prompt": "tell about bees ?"}\nbroken too\n')
    done = holdtrue("resume", tmp_path / "run", "--json")
    assert done.code == 3 and "changed since this run began" in done.error["message"]
    assert (tmp_path / "run" / "rejected.jsonl").read_text() == left_out


def test_the_best_policy_is_not_looked_for_without_a_held_out_prompt(
    holdtrue: Run, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "one.jsonl").write_text('{"prompt": "tell about bees ?"}\n', encoding="utf-8")
    given = ["--model", folder / "policy", "--reward", f"{folder}/mine.py:share", *SHORT]
    given += ["--set", "training.load_best_model_at_end=true", "--set", "data.eval_fraction=0.5"]
    done = holdtrue("rl", tmp_path / "one.jsonl", *given, "--output", tmp_path / "run", "--json")
    assert done.code == 3 and "data.eval_fraction 0.5 gives none beside the 1 trained on" in str(done.error)


def failing(folder: Path, when: str) -> str:
    """A reward that gives the first answer nothing at some calls; the calibration is call 0."""
    (folder / "failing.py").write_text(
        "calls = iter(range(100))\n"
        "def share(prompts, texts, completion_ids):\n"
        "    call, shares = next(calls), [list(ids).count(6) / len(ids) for ids in completion_ids]\n"
        f"    return [None, *shares[1:]] if {when} else shares\n",
        encoding="utf-8",
    )
    return f"{folder}/failing.py:share"


def test_with_all_rollbacks_used_up_the_last_healthy_policy_is_saved_and_that_is_said(
    holdtrue: Run, folder: Path, tmp_path: Path
) -> None:
    given = ["--model", folder / "policy", "--reward", failing(tmp_path, "call >= 1"), *SHORT]
    given += ["--set", "guard.on_alarm=rollback", "--set", "guard.max_rollbacks=1"]
    run = tmp_path / "run"
    done = holdtrue("rl", folder / "prompts.jsonl", *given, "--output", run)
    said = "BAD_REWARD since step 2, seen at step 2: the policy is again the one it began with; training ends"
    said += " here, as all rollbacks are used up (guard.max_rollbacks 1)"
    assert done.code == 0 and f"stopped  {said}\n" in done.out and f"back     {said}" in done.err, done.err
    assert "kept     step 0 of 2: from before the change that ended the run\n" in done.out
    ended = RunDir(run).info()["ended"]
    assert ended["stopped"] == said and ended["kept"]["step"] == 0
    page = (run / "report.html").read_text(encoding="utf-8")
    assert page.count(f"The run ended at an alarm: {said}.") == 1 and "alarms took all of them back" in page
    before, after = (AutoModelForCausalLM.from_pretrained(one) for one in (folder / "policy", run / "model"))
    assert torch.equal(before.lm_head.weight, after.lm_head.weight)


def test_going_back_and_the_step_that_was_kept_are_said_at_the_end_and_in_the_run(
    holdtrue: Run, folder: Path, tmp_path: Path
) -> None:
    changed = {
        "training.max_steps": 4,
        "training.save_steps": 2,
        "training.eval_steps": 4,
        "training.load_best_model_at_end": "true",
        "training.learning_rate": 1e-6,
        "data.eval_fraction": 0.3,
        "guard.on_alarm": "rollback",
        "guard.max_rollbacks": 1,
        "seed": 1,
    }
    given = ["--model", folder / "policy", "--reward", failing(tmp_path, "call == 3"), *SHORT]
    given += [part for name, value in changed.items() for part in ("--set", f"{name}={value}")]
    run = tmp_path / "run"
    done = holdtrue("rl", folder / "prompts.jsonl", *given, "--output", run)
    assert done.code == 0, done.err
    info = RunDir(run).info()["ended"]
    said = "BAD_REWARD since step 3, seen at step 3: the policy is again that of step 2; learning goes on as"
    said += " step 4 at the learning rate x 0.5, with other prompts and draws (rollback 1 of 1)"
    assert f"back     {said}\n" in done.out and said in done.err
    assert [(row["step"], row["to"]) for row in info["rollbacks"]] == [(3, 2)] and info["steps"] == 5
    assert info["kept"]["step"] == info["best_step"] and "best held-out score, " in info["kept"]["why"]
    assert f"kept     step {info['best_step']} of 5: best held-out score, " in done.out
