"""Answers to audit a reward with where no data is given: invented, half of them right.

With plain prompts, tags of thinking and answering, and tool calls; each has the columns that rewards
with a ground truth read (``ground_truth``, ``solution``, ``answer``, ``label``).
"""

from __future__ import annotations

from holdtrue.doctor.rewards import Case

_ROWS = (
    ("What is 17 + 25?", "42", "17 + 25 = 42, so the answer is 42.", "17 + 25 = 32, so the answer is 32."),
    (
        "A train leaves at 14:10 and needs 95 minutes. When does it arrive? Answer in <answer> tags.",
        "15:45",
        "<think>95 minutes are 1 h 35 min. 14:10 + 1:35 = 15:45.</think>\n<answer>15:45</answer>",
        "<think>95 minutes are about an hour and a half.</think>\n<answer>15:40</answer>",
    ),
    (
        "Which of 21, 23 and 27 is prime? Answer in <answer> tags.",
        "23",
        "<think>21 = 3 * 7 and 27 = 3 * 9, while 23 has no divisor up to 4.</think>\n<answer>23</answer>",
        "<think>All three are odd. 27 is the largest.</think>\n<answer>27</answer>",
    ),
    (
        "What is the weather in Oslo? You may call the function weather(city).",
        "Oslo",
        'I will look it up.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>',
        'I will look it up.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>',
    ),
    (
        "Look at the sign on the left. You may call the function zoom(bbox_2d).",
        "[40, 60, 200, 180]",
        "<think>The sign is small, I look closer.</think>\n<tool_call>\n"
        '{"name": "zoom", "arguments": {"bbox_2d": [40, 60, 200, 180]}}\n</tool_call>',
        "<think>The sign is small.</think>\n<tool_call>\n"
        '{"name": "zoom", "arguments": {"bbox_2d": [1, 1, 2, 2]}}\n</tool_call>',
    ),
    (
        "How do I keep basil fresh for a week?",
        "water",
        "Put the stems in a glass of water at room temperature, cover the leaves loosely with a bag, and "
        "change the water every other day.",
        "Leave it somewhere in the kitchen.",
    ),
    (
        "Write a Python function that returns the larger of two numbers.",
        "return a if a > b else b",
        "```python\ndef larger(a, b):\n    return a if a > b else b\n```",
        "```python\ndef larger(a, b):\n    return a\n```",
    ),
    (
        "Name the capital of Australia. Box it.",
        "Canberra",
        "The capital is not the largest city, Sydney, but \\boxed{Canberra}.",
        "The largest city is the capital: \\boxed{Sydney}.",
    ),
    (
        "用一句话解释什么是复利。",
        "利息",
        "复利就是把利息也算进本金，下一期连同利息一起再生利息。",
        "复利就是银行给的钱。",
    ),
    (
        "My order 5531 arrived broken. What now?",
        "refund",
        "I am sorry that order 5531 arrived broken. Please send us a photo; we then send a new one or "
        "refund you, as you prefer.",
        "That happens. Read our terms.",
    ),
)


def built_in() -> list[Case]:
    """Twenty cases: ten prompts, a right and a wrong answer to each, as plain text."""
    cases = []
    for number, (prompt, truth, *answers) in enumerate(_ROWS, start=1):
        columns = {"ground_truth": truth, "solution": truth, "answer": truth, "label": truth}
        cases += [
            Case(prompt, answer, f"built-in {number}{side}", columns)
            for side, answer in zip("ab", answers, strict=True)
        ]
    return cases
