"""``holdtrue verify``: prove that a model's rewards can be trusted."""

from __future__ import annotations

from dataclasses import asdict

from holdtrue.cli import frame
from holdtrue.errors import QualityError
from holdtrue.rundir import RunDir, find_model


def command(
    model: frame.RunOrModel,
    trust_remote_code: frame.RemoteCode = False,
) -> frame.Result:
    """Prove that a model's rewards can be trusted.

    Alone against in a batch, left against right padding, bf16 against fp32, saved against reloaded, ours
    against plain transformers; padding equal to EOS, missing EOS, an untrained or unsaved head, which
    token is read. Exit code 4 when something is off.
    """
    from holdtrue.reward.folders import verify_folder

    folder = find_model(model)
    run = RunDir(model)
    seed = run.settings().get("seed") if run.settings_file.is_file() else None
    checks = verify_folder(folder, seed=seed, trust_remote_code=trust_remote_code)
    failed = [check for check in checks if check.status == "fail"]
    value = {"ok": not failed, "model": str(folder), "checks": [asdict(check) for check in checks]}
    rows = [(check.status, check.name, check.detail) for check in checks]
    return frame.Result(
        value, frame.table(["", "check", "measured"], rows), QualityError.exit_code if failed else 0
    )
