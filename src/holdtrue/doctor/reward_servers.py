"""Rewards behind a URL, in the protocols that RL engines already use.

POST URL            {"query": [...], "prompts": [...], "labels": [...]} -> {"rewards": [...]}
    OpenRLHF's ``remote_rm_url`` (``openrlhf/utils/remote_rm_utils.py``, ``openrlhf/cli/serve_rm.py``)
POST .../classify   {"model", "input": [...]} -> {"data": [{"index", "probs": [...]}]}
POST .../pooling    {"model", "input": [...]} -> {"data": [{"index", "data": [...]}]}
    vLLM, and SGLang for ``/v1/classify`` (docs.vllm.ai, "Pooling Models"; docs.sglang.io, "Classification
    API"). Messages are sent one conversation a request, so that the server's own template renders them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit, urlunsplit
from urllib.request import Request, urlopen

from holdtrue.doctor.rewards import Case, Reward, RewardFault, openrlhf, rewards_of
from holdtrue.errors import SettingsError
from holdtrue.records import as_json, flatten


def from_url(url: str, limit: float) -> Reward:
    """The reward that a server gives; ``limit`` is the seconds it may stay silent.

    Raises:
        SettingsError: not a URL of http or https with a host.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError(f"{url} is not a URL such as http://127.0.0.1:5000/get_reward")
    if parts.path.endswith(("/classify", "/pooling")):
        return lambda cases: _vllm(url, cases, limit)
    return lambda cases: rewards_of(_send(url, openrlhf(cases), limit))


def _vllm(url: str, cases: Sequence[Case], limit: float) -> list[Any]:
    """Rewards of cases: all in one request when they are plain text, else one request each."""
    parts = urlsplit(url)
    models = _send(urlunsplit((*parts[:2], "/v1/models", "", "")), None, limit)
    try:
        model = models["data"][0]["id"]
    except (TypeError, LookupError):
        raise RewardFault("names no model at /v1/models") from None
    if all(isinstance(case.prompt, str) for case in cases):
        texts = [flatten(case.prompt) + flatten(case.answer) for case in cases]
        return _values(_send(url, {"model": model, "input": texts}, limit), len(cases))
    conversations = [as_json(case.prompt) + as_json(case.answer) for case in cases]
    return [_values(_send(url, {"model": model, "messages": one}, limit), 1)[0] for one in conversations]


def _values(answer: Any, count: int) -> list[Any]:
    """One number an input: the only output of a reward model, the second class of two."""
    try:
        rows = sorted(answer["data"], key=lambda row: row["index"])
        outputs = [row["probs"] if "probs" in row else row["data"] for row in rows]
    except (TypeError, LookupError):
        raise RewardFault('gives no {"data": [{"index", "probs" or "data"}, ...]}') from None
    if len(outputs) != count:
        raise RewardFault(f"gives {len(outputs)} rewards for {count} answers")
    return [_only(output) for output in outputs]


def _only(output: Any) -> Any:
    while isinstance(output, list) and len(output) == 1:
        output = output[0]
    if isinstance(output, list) and len(output) == 2 and not isinstance(output[1], list):
        return output[1]
    if isinstance(output, list):
        raise RewardFault(f"gives {len(output)} numbers for an answer; a reward is one, or two classes")
    return output


def _send(url: str, body: Mapping[str, Any] | None, limit: float) -> Any:
    """POST a body as JSON, or GET, and read the JSON that comes back.

    Raises:
        RewardFault: the server cannot be reached, refuses, or says no JSON.
    """
    data = None if body is None else json.dumps(body).encode()
    request = Request(url, data, {"Content-Type": "application/json", "Accept": "application/json"})
    try:
        with urlopen(request, timeout=limit) as response:
            said = response.read()
    except HTTPError as error:
        with error:
            text = " ".join(error.read(300).decode(errors="replace").split())
        raise RewardFault(f"answers {error.code} {error.reason}{f': {text}' if text else ''}") from error
    except TimeoutError as error:
        raise RewardFault(f"gives no answer within {limit:g} s", hung=True) from error
    except (URLError, OSError, HTTPException) as error:
        if isinstance(getattr(error, "reason", None), TimeoutError):
            raise RewardFault(f"gives no answer within {limit:g} s", hung=True) from error
        raise RewardFault(f"cannot be reached: {getattr(error, 'reason', error)}") from error
    try:
        return json.loads(said)
    except ValueError as error:
        shown = " ".join(said[:80].decode(errors="replace").split())
        raise RewardFault(f"says no JSON but {shown!r}") from error
