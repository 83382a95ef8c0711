"""Rows of training data for the doctor, and what the checks find in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from holdtrue.data.examples import Example
from holdtrue.doctor.checks import examine
from holdtrue.doctor.findings import Diagnosis, Finding
from holdtrue.doctor.subject import Subject

START, END = "<|im_start|>", "<|im_end|>"


def talk(answer: str, question: str = "Is tea hot?", at: str = "data:1", **more: Any) -> Example:
    return Example(
        ({"role": "user", "content": question}, {"role": "assistant", "content": answer}), at, **more
    )


def talks(count: int) -> list[Example]:
    return [talk(f"Tea number {i} is hot.", f"How hot is tea {i}?", f"data:{i}") for i in range(count)]


def thought(words: str, answer: str) -> dict[str, str]:
    return {"role": "assistant", "content": answer, "reasoning_content": words}


def run(folder: Path, examples: list[Example], **more: Any) -> Diagnosis:
    return examine(Subject(folder, examples=examples, **more))


def of(diagnosis: Diagnosis, id: str) -> list[Finding]:
    return [one for one in diagnosis.findings if one.id == id]


def worst(diagnosis: Diagnosis, id: str) -> Finding:
    return of(diagnosis, id)[0]


def results(subject: Subject, id: str) -> list[Finding]:
    return [one for one in examine(subject).findings if one.id == id]


def only(subject: Subject, id: str) -> Finding:
    (found,) = results(subject, id)
    return found
