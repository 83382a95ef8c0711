"""A new optimisation: its files are there, and its run directory is made; quick, as nothing is loaded yet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from holdtrue.data.files import resources
from holdtrue.errors import SettingsError
from holdtrue.policy.settings import RLSettings
from holdtrue.rundir import RunDir, find_model


def start(settings: RLSettings, output: str | Path) -> RunDir:
    """A new run directory for these settings.

    Raises:
        SettingsError: prompts or a reward are missing, or the directory is in use.
        DataError, ModelError: a file that is named does not exist; then nothing is written.
    """
    if not settings.data.prompts:
        raise SettingsError("policy optimisation needs prompts: holdtrue rl SETTINGS.yaml prompts.jsonl")
    if not settings.rewards:
        raise SettingsError(
            "policy optimisation needs a reward: --reward PATH of a model, or file.py:function"
        )
    require_files(settings)
    return RunDir.create(output, anchored(settings))


def require_files(settings: RLSettings) -> None:
    """Refuse paths of prompts and rewards that do not exist or cannot be used, without loading anything.

    Raises:
        DataError, ModelError, SettingsError: says which.
    """
    resources(settings.data.prompts)
    for one in settings.rewards:
        if one.model is not None:
            folder = find_model(one.model)
            if settings.training.group < 2 and _compares(folder):
                raise SettingsError(
                    f"reward {one.model} compares the answers of a group: training.group is 2 or more with it"
                )
        elif not Path(str(one.function).rpartition(":")[0]).is_file():
            raise SettingsError(f"reward function {one.function}: there is no such file")
    if settings.critic.path is not None:
        find_model(settings.critic.path)


def anchored(settings: RLSettings) -> dict[str, Any]:
    """The settings with whole paths, so that a run can be resumed from anywhere."""

    def anchor(path: str | None) -> str | None:
        return str(Path(path).absolute()) if path and Path(path).exists() else path

    values = settings.dump()
    values["data"]["prompts"] = [anchor(path) for path in values["data"]["prompts"]]
    for key in ("path", "reference"):
        path = values["policy"][key]
        if path and RunDir(path).settings_file.is_file():
            values["policy"][key] = str(find_model(path))
    values["critic"]["path"] = anchor(values["critic"]["path"])
    for key in ("path", "reference", "chat_template_path"):
        values["policy"][key] = anchor(values["policy"][key])
    for one in values["rewards"]:
        one["model"] = anchor(one["model"])
        if one["function"] is not None:
            file, _, name = one["function"].rpartition(":")
            one["function"] = f"{Path(file).absolute()}:{name}"
    return values


def _compares(folder: Path) -> bool:
    from holdtrue.reward.folders import compares  # slow to import, and seldom asked

    return compares(folder)
