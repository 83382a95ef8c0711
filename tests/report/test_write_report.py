"""The written page: complete, self-contained, the same every time, and harmless whatever the data holds."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from holdtrue.errors import DataError
from holdtrue.report import write_report
from holdtrue.report.page import as_script_data
from holdtrue.rundir import RunDir, append_jsonl, read_json, write_json
from reporting import INFO, make_metrics, make_result

HOSTILE = [
    "<script>document.title = 'owned'</script>",
    "</script><script>document.title = 'owned'</script>",
    "<img src=x onerror=\"document.title = 'owned'\">",
    "\"><svg onload=alert(1)>' onmouseover='alert(1)",
    "<!--<script>",
    "]]><style>*{display:none}</style>",
    "{{ 7 * 191 }}{% raw %}",
    "<a href='javascript:alert(1)'>x</a><iframe src='https://example.org'></iframe>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "\u2028\u2029\x00\x1b[2J\u202egnp.exe",
    "--ink",
]


class Page(HTMLParser):
    """Counts elements and attributes, and keeps the text that is not in style or script."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: Counter[str] = Counter()
        self.attributes: Counter[str] = Counter()
        self.links: list[str] = []
        self.words: list[str] = []
        self.scripts: dict[str, str] = {}
        self._script: str | None = None
        self._quiet = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] += 1
        self.attributes.update(name for name, _ in attrs)
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "action")]
        self._quiet = tag in ("script", "style")
        self._script = dict(attrs).get("id", "") if tag == "script" else None

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._quiet, self._script = False, None

    def handle_data(self, data: str) -> None:
        if self._script is not None:
            self.scripts[self._script] = self.scripts.get(self._script, "") + data
        elif not self._quiet:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def write(run: RunDir) -> str:
    return write_report(run).read_text(encoding="utf-8")


def poisoned(value: Any, text: str) -> Any:
    """Every text in a JSON value replaced, keys of mappings from data too."""
    if isinstance(value, dict):
        return {key: poisoned(inner, text) for key, inner in value.items()}
    if isinstance(value, list):
        return [poisoned(inner, text) for inner in value]
    return text if isinstance(value, str) else value


def poison(run: RunDir, text: str) -> None:
    """Put a text into every field of the run that can hold one."""
    info = poisoned(INFO, text) | {"status": "finished"}
    info["data"]["train"] |= {"rejected": {text: 11}, "dropped": {text: 3}}
    info["data"][text] = {"rejected": {text: 1}}
    write_json(run.info_file, info)
    result = poisoned(make_result(count=60), text)
    result |= {"slices": {text: result["slices"]["tone"]}, "unscored": {text: 1}}
    write_json(run.evaluation_file, {"model_hash": text, "results": [result, result]})
    row = {"file": text, "line": 1, "split": text, "offset": 0, "reason": text, "detail": text, "text": text}
    append_jsonl(run.rejected_file, [row])
    append_jsonl(run.dropped_file, [row])
    run.settings_file.write_text(json.dumps({"model": {"path": text}, text: text}), encoding="utf-8")
    append_jsonl(run.metrics_file, make_metrics(100))


def test_the_page_tells_the_whole_story_in_order(finished_run: RunDir) -> None:
    text = Page(write(finished_run)).text
    result = read_json(finished_run.evaluation_file)["results"][0]
    story = [
        f"picks the preferred answer in {100 * result['accuracy']:.1f}% of 399 comparisons",
        "better than a coin flip",
        "1 step had a non-finite loss",
        "Calibration error",
        "Training Loss",
        "Evaluation on held out",
        "1 comparison left out because an answer has no reward (1 answer: longer than max_length",
        "Margins",
        "Accuracy by slice",
        "Length against reward",
        "Evaluation on other.jsonl",
        "could not be read not valid JSON 11 pairs.jsonl:1",
        "left out longer than max_length 1,204 pairs.jsonl:1 (601)",
        "Hardest mistakes on held out",
        result["mistakes"][0]["chosen"],
        result["mistakes"][0]["rejected"],
        INFO["model_hash"],
        "ab" * 32,
        "training.num_train_epochs",
    ]
    places = [text.find(part) for part in story]
    assert -1 not in places
    assert places == sorted(places)


def test_every_place_for_a_chart_has_its_figure(finished_run: RunDir) -> None:
    html = write(finished_run)
    figures = json.loads(Page(html).scripts["figures"])
    assert len(figures) == 2 + 2 * 5
    assert all(f'data-figure="{name}"' in html for name in figures)


def test_the_page_stays_under_three_megabytes_and_names_no_other_place(finished_run: RunDir) -> None:
    html = write(finished_run)
    assert len(html.encode()) < 3_000_000
    assert all(link.startswith("#") or link == "data:," for link in Page(html).links)


def test_the_same_run_gives_the_same_bytes(finished_run: RunDir) -> None:
    first = write_report(finished_run).read_bytes()
    assert write_report(finished_run).read_bytes() == first


def test_the_policy_allows_two_scripts_by_hash_and_no_request(finished_run: RunDir) -> None:
    html = write(finished_run).replace("&#39;", "'")
    policy = html.split('http-equiv="Content-Security-Policy" content="')[1].split('"')[0]
    parts = dict(part.split(" ", 1) for part in policy.split("; "))
    assert parts["default-src"] == "'none'"
    assert [word[:8] for word in parts["script-src"].split()] == ["'sha256-", "'sha256-"]
    assert set(parts) == {"default-src", "script-src", "style-src", "img-src", "base-uri", "form-action"}


@pytest.mark.parametrize("text", HOSTILE)
def test_text_from_data_adds_no_element_and_no_attribute(new_run: Callable[[], RunDir], text: str) -> None:
    run = new_run()
    poison(run, "harmless")
    plain = Page(write(run))
    for file in (run.rejected_file, run.dropped_file, run.metrics_file):
        file.unlink()
    poison(run, text)
    page = Page(write(run))
    assert page.elements == plain.elements
    assert page.attributes == plain.attributes
    visible = "".join(c if c >= " " else chr(0x2400 + ord(c)) for c in text)
    assert " ".join(visible.split()) in page.text
    assert page.text.count(" ".join(visible.split())) > 20


@pytest.mark.parametrize("text", HOSTILE)
def test_json_inside_a_script_element_keeps_its_value_and_closes_nothing(text: str) -> None:
    data = as_script_data({text: [text]})
    assert json.loads(data) == {text: [text]}
    assert not set("<>&\u2028\u2029") & set(data)


def explain(result: dict[str, Any], how: str = "sentences") -> dict[str, Any]:
    """The result with its first mistake explained: its first 2 characters and the next 3, the other not."""
    first, *others = result["mistakes"]
    why = {"spans": [[[0, 2, 0.25], [2, 5, -0.5]], []], "reasons": [None, "a single sentence"]}
    explained = {"how": how, "pairs": 1, "answers_scored": 4}
    return result | {"mistakes": [first | {"explanation": why}, *others], "explained": explained}


def test_a_mistake_shows_what_each_part_of_its_answers_is_worth(finished_run: RunDir) -> None:
    evaluation = read_json(finished_run.evaluation_file)
    plain = write(finished_run)
    assert "<mark" not in plain and 'class="legend' not in plain
    evaluation["results"][0] = explain(evaluation["results"][0])
    write_json(finished_run.evaluation_file, evaluation)
    html = write(finished_run)
    chosen = evaluation["results"][0]["mistakes"][0]["chosen"]
    drawn = (
        f'<mark class="up" style="--heat:31%" title="+0.250">{chosen[:2]}</mark>'
        f'<mark class="down" style="--heat:62%" title="−0.500">{chosen[2:5]}</mark>{chosen[5:]}</p>'
    )
    assert drawn in html
    text = Page(html).text
    assert "−0.5 0.5, 0 in the middle" in text
    assert "Without colours: a single sentence ." in text
    assert "So explained are the first 1, by scoring 4 answers once more." in text


@pytest.mark.parametrize("text", HOSTILE)
def test_text_that_is_cut_into_colours_adds_no_element(new_run: Callable[[], RunDir], text: str) -> None:
    run = new_run()
    result = make_result(count=60)
    pages = []
    for answer in ("harmless", text):
        mistakes = [row | {"chosen": answer, "rejected": answer} for row in result["mistakes"]]
        explained = explain(result | {"mistakes": mistakes})
        spans = [[[n, n + 1, n / 9 - 0.2] for n in range(5)]] * 2  # cuts tags and entities in the middle
        explained["mistakes"][0]["explanation"] |= {"spans": spans, "reasons": [None, answer]}
        write_json(run.evaluation_file, {"model_hash": None, "results": [explained]})
        pages.append(Page(write(run)))
    assert pages[0].elements == pages[1].elements
    assert pages[0].attributes == pages[1].attributes


def test_what_was_said_of_single_answers_stands_on_the_page(new_run: Callable[[], RunDir]) -> None:
    run = new_run()
    result = make_result(count=60)
    measured = {"count": 50, "right_at_zero": 0.7, "right_at_zero_interval": [0.56, 0.81]}
    measured |= {"auc": 0.75, "auc_interval": [0.6, 0.9]}
    result |= {
        "position_consistency": 0.875,
        "labels": measured | {"good": 20},
        "steps": measured | {"right_steps": 30, "threshold": 0.5, "unmatched": 2},
        "ratings": {"count": 9, "rmse": 1.5, "pearson": 0.25, "spearman": None, "within_prompts": -0.125},
    }
    write_json(run.evaluation_file, {"model_hash": None, "results": [result]})
    text = Page(write(run)).text
    assert "87.5% have the same winner whichever answer is shown first" in text
    for row in (
        "labels AUC 0.750 0.600–0.900 50 answers, 20 good right at 0 70.0% 56.0–81.0%",
        "steps AUC 0.750 0.600–0.900 50 steps, 30 right; 2 judged where the model reads no step",
        "ratings Pearson 0.25 9 answers Spearman undefined Pearson within prompts −0.125",
        "root mean squared error 1.5",
    ):
        assert row in text


def test_a_run_that_has_only_begun_is_reported_in_words(new_run: Callable[[], RunDir]) -> None:
    run = new_run()
    run.info_file.unlink()  # as a kill between the two files leaves it
    text = Page(write(run)).text
    for words in ("Not evaluated yet", "no run.json", "No step was logged", "Nothing has been counted yet"):
        assert words in text


def test_a_run_cut_short_shows_what_there_is(new_run: Callable[[], RunDir]) -> None:
    run = new_run()
    write_json(run.info_file, {"status": "interrupted"})
    append_jsonl(run.metrics_file, make_metrics(30))
    with open(run.metrics_file, "a", encoding="utf-8") as file:
        file.write('{"event": "train", "st')
    append_jsonl(run.dropped_file, [{"file": "a.jsonl", "line": 4, "split": "train", "reason": "too long"}])
    page = Page(write(run))
    assert "can be resumed" in page.text
    assert "train left out too long 1 a.jsonl:4" in page.text
    assert set(json.loads(page.scripts["figures"])) == {"loss", "accuracy"}


def test_an_evaluation_that_measured_nothing_is_reported_in_words(new_run: Callable[[], RunDir]) -> None:
    run = new_run()
    result = make_result(count=5)
    empty = {
        key: [] if isinstance(value, list) else {} if isinstance(value, dict) else None
        for key, value in result.items()
    }
    empty |= {
        "data": "nothing",
        "count": 0,
        "prompts": 0,
        "ties": 0,
        "label_ties": 0,
        "confidence": 0.95,
        "unscored_comparisons": 5,
        "unscored": {"too long": 10},
        "histogram": {"edges": []},
        "margins": {"edges": [], "counts": []},
        "reward": {"mean": None, "std": None},
        "length_correlation": {"pearson": None, "within_pairs_pearson": None},
    }
    write_json(run.evaluation_file, {"model_hash": None, "results": [empty, result]})
    text = Page(write(run)).text
    assert "On nothing nothing could be measured" in text
    assert "5 lack one" in text
    assert "10 answers: too long" in text


def test_nothing_left_out_is_said(new_run: Callable[[], RunDir]) -> None:
    run = new_run()
    write_json(run.info_file, {"status": "finished", "data": {"train": {"rows": 3, "rejected": {}}}})
    assert "None: every row was read, fitted and used" in Page(write(run)).text


def test_a_lone_surrogate_does_not_stop_the_report(new_run: Callable[[], RunDir]) -> None:
    run = new_run()
    run.info_file.write_text('{"status": "finished", "command": "\\ud800 here"}', encoding="utf-8")
    assert "? here" in Page(write(run)).text


def test_a_broken_file_is_named(new_run: Callable[[], RunDir]) -> None:
    run = new_run()
    run.metrics_file.write_text('{"event": \n', encoding="utf-8")
    with pytest.raises(DataError, match=r"metrics\.jsonl, line 1"):
        write_report(run)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", r"evaluation\.json holds a list"),
        ('{"results": [{"data": "validation", "accuracy": 0.5}]}', "does not say 'slices'.*holdtrue resume"),
    ],
)
def test_an_evaluation_of_another_version_is_to_be_made_again(
    new_run: Callable[[], RunDir], text: str, words: str
) -> None:
    run = new_run()
    run.evaluation_file.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=words):
        write_report(run)


@pytest.fixture(scope="module")
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no chromium to open the page with")
    return found


def browse(chromium: str, page: Path, profile: Path) -> tuple[str, str]:
    """The document after its scripts ran, and what the browser logged."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--enable-logging=stderr"]
    done = subprocess.run(
        [
            chromium,
            *options,
            "--disable-background-networking",
            "--virtual-time-budget=10000",
            f"--user-data-dir={profile}",
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        timeout=120,
        check=True,
    )
    return done.stdout.decode(), done.stderr.decode(errors="replace")


def test_a_browser_draws_every_chart_without_a_complaint(
    chromium: str, finished_run: RunDir, tmp_path: Path
) -> None:
    dom, log = browse(chromium, write_report(finished_run), tmp_path / "profile")
    page = Page(dom)
    assert dom.count('class="chart js-plotly-plot"') == 12
    assert "held out" in page.text
    assert "CONSOLE" not in log


def test_a_browser_runs_nothing_that_came_with_the_data(
    chromium: str, new_run: Callable[[], RunDir], tmp_path: Path
) -> None:
    run = new_run()
    poison(run, "".join(HOSTILE))
    dom, log = browse(chromium, write_report(run), tmp_path / "profile")
    page = Page(dom)
    assert "<title>owned" not in dom
    assert dom.count('class="chart js-plotly-plot"') == 12
    assert not {"img", "iframe"} & set(page.elements)
    assert not any(name.startswith("on") for name in page.attributes)
    assert "CONSOLE" not in log
