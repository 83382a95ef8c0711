"""Settings: a YAML file and overrides made into typed, frozen objects."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from holdtrue import settings
from holdtrue.errors import DataError, SettingsError
from holdtrue.losses.bradley_terry import BradleyTerry
from holdtrue.settings import keys

WHOLE = ["seed", "training.max_steps", "training.max_tokens_per_pass", "training.logging_steps"]
REAL = ["training.learning_rate", "training.weight_decay", "training.max_grad_norm", "loss.center"]


def built(*overrides: str) -> settings.Settings:
    return settings.build(settings.read(None, overrides))


def test_nothing_given_is_the_defaults() -> None:
    plain = settings.build({})
    assert plain.loss == BradleyTerry()
    assert (plain.seed, plain.training.num_train_epochs, plain.data.truncation) == (42, 2.0, "drop")
    assert plain.model.path is None and plain.model.lora is None


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        settings.build({}).training.max_steps = 3  # type: ignore[misc]


def test_a_file_is_read_and_overridden(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("training: {max_steps: 10, learning_rate: 1e-4}\nloss: bradley_terry\n")
    made = settings.build(settings.read(file, ["training.max_steps=20", "loss.center=0.5", "seed=7"]))
    assert (made.training.max_steps, made.training.learning_rate, made.seed) == (20, 1e-4, 7)
    assert made.loss == BradleyTerry(center=0.5)


@pytest.mark.parametrize(
    "text",
    ["", "# nothing\n", "training:\n", "training: null\nloss:\ndata: ~\nseed:\n", "model: {lora: null}\n"],
)
def test_an_empty_file_or_section_means_the_defaults(tmp_path: Path, text: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    assert settings.build(settings.read(file)) == settings.build({})


def test_a_missing_or_unreadable_file_is_a_matter_of_data(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.yaml does not exist"):
        settings.read(tmp_path / "none.yaml")
    with pytest.raises(DataError, match="cannot be read"):
        settings.read(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"seed: \xff")
    with pytest.raises(DataError, match="cannot be read"):
        settings.read(tmp_path / "latin.yaml")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: [", "is not valid YAML"),
        ("- 1\n", "holds a list, expected a mapping of settings"),
        ("text", "holds a str, expected a mapping of settings"),
        ("x: !!python/object/apply:os.getcwd []", "is not valid YAML"),
    ],
)
def test_a_file_that_holds_no_settings_says_so_and_runs_nothing(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=says):
        settings.read(file)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("training.learning_rate=1e-4", 1e-4),  # YAML 1.1 would take it for a string
        ("training.learning_rate=1E-4", 1e-4),
        ("training.max_steps=1e3", 1000.0),
        ("model.path='1e5'", "1e5"),
        ("model.path=a b", "a b"),
        ("model.path=https://x.org/y=z", "https://x.org/y=z"),
        ("data.train=[a, b]", ["a", "b"]),
        ("data.columns={margin: strength}", {"margin": "strength"}),
        ("training.bf16=true", True),
        ("training.bf16=null", None),
        ("training.bf16=", None),
        ("model.path=nan", "nan"),
    ],
)
def test_an_override_is_read_as_yaml(text: str, value: Any) -> None:
    key, parsed = settings.parse_override(text)
    assert (key, parsed, type(parsed)) == (text.partition("=")[0], value, type(value))


@pytest.mark.parametrize("text", ["seed", "=3", " =3", ""])
def test_an_override_without_a_key_or_value_shows_how_one_looks(text: str) -> None:
    with pytest.raises(SettingsError, match=r"--set takes key=value, got .* e\.g\. training\.max_steps=100"):
        settings.parse_override(text)


def test_an_override_that_is_no_yaml_says_so() -> None:
    with pytest.raises(SettingsError, match=r"--set model\.path: '\[' is not a YAML value"):
        settings.parse_override("model.path=[")


def test_put_makes_the_mappings_on_the_way() -> None:
    values: dict[str, Any] = {"training": None, "loss": "bradley_terry"}
    settings.put(values, "training.max_steps", 3)
    settings.put(values, "model.lora.r", 8)
    settings.put(values, "loss.center", 1)
    assert values == {
        "training": {"max_steps": 3},
        "model": {"lora": {"r": 8}},
        "loss": {"kind": "bradley_terry", "center": 1},
    }
    with pytest.raises(SettingsError, match=r"seed is 3, so seed\.x cannot be set in it"):
        settings.put({"seed": 3}, "seed.x", 1)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"learning_rate": 1}, "unknown setting 'learning_rate'; did you mean 'training.learning_rate'?"),
        ({"trainning": {}}, "unknown setting 'trainning'; did you mean 'training'?"),
        ({"training": {"max_stesp": 1}}, "'training.max_stesp'; did you mean 'training.max_steps'?"),
        ({"training": {"seed": 1}}, "unknown setting 'training.seed'"),
        ({"model": {"lora": {"rank": 1}}}, "unknown setting 'model.lora.rank'"),
        (
            {"qqq": 1},
            "unknown setting 'qqq'; known: data, evaluation, loss, model, ridge, seed, sweep, training",
        ),
        ({1: 2}, "unknown setting '1'; known: data,"),
        ({"data": ["x"]}, "data holds settings of its own, got ['x']"),
        ({"training": {"max_steps": "many"}}, "training.max_steps: should be a valid integer"),
        ({"training": {"max_steps": -2}}, "greater than or equal to -1, got -2"),
        ({"training": {"learning_rate": float("inf")}}, "learning_rate: should be a finite number"),
        ({"data": {"truncation": "middle"}}, "got 'middle'"),
        ({"loss": "bradly_terry"}, "did you mean 'bradley_terry'?"),
        ({"loss": {"center": "x"}}, "bradley_terry.center: should be a valid number"),
        (
            {"training": {"train_batch_size": 8, "per_device_train_batch_size": 8}},
            "training: give train_batch_size or per_device_train_batch_size, not both",
        ),
        ({"training": {"gradient_accumulation_steps": 2}}, "needs per_device_train_batch_size"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_used_say_where_and_what_would_be_right(
    values: dict[Any, Any], says: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        settings.build(values)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_written_settings_give_equal_settings() -> None:
    made = built("loss.center=0.01", "model.lora.r=4", "data.columns={margin: m}", "training.bf16=false")
    text = yaml.safe_dump(made.dump(), sort_keys=False)
    assert settings.build(yaml.safe_load(text)) == made


@given(
    st.dictionaries(st.sampled_from(WHOLE), st.integers(1, 10**6)),
    st.dictionaries(st.sampled_from(REAL), st.floats(1e-300, 1e300)),
)
def test_every_number_is_written_to_yaml_and_read_back(whole: dict[str, int], real: dict[str, float]) -> None:
    values: dict[str, Any] = {}
    for key, value in (whole | real).items():
        settings.put(values, key, value)
    made = settings.build(values)
    assert settings.build(yaml.safe_load(yaml.safe_dump(made.dump()))) == made
    for key, value in (whole | real).items():
        section, _, name = key.rpartition(".")
        assert getattr(getattr(made, section) if section else made, name) == value


@pytest.mark.parametrize("key", [key for key, _ in keys()])
def test_every_key_can_be_set_to_its_default(key: str) -> None:
    default: Any = settings.build({"model": {"lora": {}}, "sweep": {}}).dump()
    for part in key.split("."):
        default = default[part]
    values: dict[str, Any] = {}
    settings.put(values, key, default)
    settings.build(values)


def test_keys_are_dotted_unique_and_explained() -> None:
    found = dict(keys())
    assert {"model.lora.r", "training.max_steps", "training.save_steps", "data.max_length", "seed"} <= set(
        found
    )
    assert len(found) == len(list(keys()))
    assert all(field.description for field in found.values())


def test_comparisons_per_step_in_holdtrues_and_in_transformers_way() -> None:
    assert built().training.comparisons_per_step(2) == 16  # the default, over all processes
    assert built("training.train_batch_size=10").training.comparisons_per_step(2) == 10
    both = built("training.per_device_train_batch_size=4", "training.gradient_accumulation_steps=3").training
    assert both.comparisons_per_step(2) == 24


def test_settings_need_no_torch() -> None:
    program = (
        "import sys; from holdtrue.settings import build; build({}).dump(); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_a_pass_is_small_on_the_cpu_and_large_on_a_gpu_unless_said() -> None:
    assert built().training.tokens_per_pass("cpu") == 2048
    assert built().training.tokens_per_pass("cpu", "padded") == 512
    assert built().training.tokens_per_pass("cuda:1", "padded") == 16384
    assert built("training.max_tokens_per_pass=100").training.tokens_per_pass("cuda") == 100


def test_transforms_are_a_list_of_names_and_mappings_that_survives_being_written(tmp_path: Path) -> None:
    made = built("data.transforms=[swap, {kind: best_worst, min_gap: 0.2}]")
    assert [kind.name() for kind in made.data.transforms] == ["swap", "best_worst"]
    assert made.data.transforms[1].min_gap == 0.2
    assert settings.build(yaml.safe_load(yaml.safe_dump(made.dump()))) == made
    with pytest.raises(SettingsError, match="unknown transform 'swop'; did you mean 'swap'"):
        built("data.transforms=[swop]")
    with pytest.raises(SettingsError, match=r"data\.transforms: should be a valid list, got 'swap'"):
        built("data.transforms=swap")


SPACE = {"training.learning_rate": {"low": 1e-5, "high": "1e-3", "log": True}, "loss.center": [0, 0.1]}


def test_a_search_space_is_read_with_its_ranges_and_lists() -> None:
    sweep = settings.build({"sweep": {"space": SPACE}}).sweep
    assert sweep is not None and sweep.space["loss.center"] == [0, 0.1]
    assert sweep.space["training.learning_rate"] == settings.Range(low=1e-5, high=1e-3, log=True)
    assert settings.build(settings.build({"sweep": {"space": SPACE}}).dump()).sweep == sweep


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            {"training.learning_rat": [1, 2]},
            "unknown setting 'training.learning_rat'; did you mean 'training.l",
        ),
        ({"loss.centre": [1, 2]}, "'centre'; did you mean 'center'"),
        ({"loss.label_smoothing": {"low": 0, "high": 0.7}}, "less than 0.5, got 0.7"),
        ({"training.max_steps": {"low": 1, "high": 2.5}}, "valid integer"),
        ({"training.lr_scheduler_type": ["linear", "lineal"]}, "lr_scheduler_type: should be 'constant'"),
        ({"training.learning_rate": {"low": 0, "high": 1, "log": True}}, "log needs low above 0"),
        ({"training.learning_rate": {"low": 1, "high": 1}}, "low must be below high"),
        (
            {"training.learning_rate": {"low": 1}},
            "takes {low: ..., high: ...} or a list of two or more values, got",
        ),
        ({"training.learning_rate": {"low": 1, "hihg": 2}}, "takes {low: ..., high: ...}"),
        ({"training.learning_rate": [0.1]}, "or a list of two or more"),
        ({"training": {"learning_rate": {"low": 1, "high": 2}}}, "takes {low: ..., high: ...}"),
        ({"data.eval": [["a"], ["b"]]}, "cannot be searched: trials are compared on the same pairs"),
        ({"sweep.trials": [1, 2]}, "cannot be searched"),
    ],
)
def test_a_search_space_that_settings_cannot_have_is_refused(space: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings.build({"sweep": {"space": space}})
    assert message in str(caught.value)


def test_settings_that_only_go_together_can_be_searched_together() -> None:
    space = {"training.gradient_accumulation_steps": [2, 4], "training.per_device_train_batch_size": [4, 8]}
    assert settings.build({"sweep": {"space": space}}).sweep is not None
