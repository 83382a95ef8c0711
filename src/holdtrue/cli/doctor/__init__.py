"""Say why a policy repeats itself, before, during and after training, and mend it."""

VERBS = {
    "check": "Examine a model folder, its template, settings and data before training.",
    "fix": "Mend what check found, in a copy of the model folder and its data.",
    "ablate": "Answer prompts with one fix at a time and show what each changes.",
    "rollouts": "Find degenerate answers in rollouts of any engine, and their causes.",
    "reward": "Find out which junk a reward pays for or cannot see.",
}
