"""The words of the support desk: what customers write, and the grammar of the first policy's replies.

A customer has a product, a fault and a tone; a reply is built of slots (opening, product, remedy,
steps, filler, closing), each drawn from a short list of English sentences. Everything is plain text,
so that a policy which leaves the grammar can still be read by the true reward.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from random import Random

from holdtrue.errors import DataError

PRODUCTS: dict[str, tuple[str, ...]] = {
    "electronics": ("router", "laptop", "printer", "camera", "speaker", "phone"),
    "kitchen": ("kettle", "toaster", "stove", "cooker", "grill", "fryer"),
}


@dataclass(frozen=True)
class Fault:
    """A fault: how customers describe it (after "my router ..."), and how its remedy is put into words."""

    family: str
    complaints: tuple[str, ...]
    remedies: tuple[str, ...]


FAULTS: dict[str, Fault] = {
    "connection": Fault(
        "electronics",
        ("loses its connection", "keeps dropping the network"),
        ("update the firmware", "install the new firmware"),
    ),
    "start": Fault(
        "electronics",
        ("does not start", "stays dark and silent"),
        ("hold the power button for ten seconds", "press the power button twice"),
    ),
    "heat": Fault(
        "electronics",
        ("gets far too hot", "overheats after ten minutes"),
        ("clean the air vents", "clear the dust from the vents"),
    ),
    "battery": Fault(
        "electronics",
        ("drains its battery", "runs out of power within an hour"),
        ("replace the battery", "fit a new battery"),
    ),
    "freeze": Fault(
        "electronics",
        ("freezes all the time", "hangs and shows an error"),
        ("reset it to factory settings", "restore the factory settings"),
    ),
    "noise": Fault(
        "electronics",
        ("makes a loud noise", "rattles and hums"),
        ("tighten the screws", "fasten the loose screws"),
    ),
    "door": Fault(
        "kitchen",
        ("will not close", "has a lid that falls open"),
        ("adjust the hinge", "bend the hinge back"),
    ),
    "smoke": Fault(
        "kitchen",
        ("smells of smoke", "gives off a burnt smell"),
        ("empty the crumb tray", "wash the tray"),
    ),
    "slow": Fault(
        "kitchen",
        ("heats too slowly", "takes ages to warm up"),
        ("polish the heating plate", "clean the heating plate"),
    ),
    "fuse": Fault(
        "kitchen",
        ("trips the fuse", "cuts the power in my house"),
        ("use another wall socket", "plug it into another socket"),
    ),
    "early": Fault(
        "kitchen",
        ("turns off too early", "stops before it is done"),
        ("turn the thermostat up", "set the thermostat higher"),
    ),
    "taste": Fault(
        "kitchen",
        ("leaves a strange taste", "makes all food bitter"),
        ("wipe it with lemon juice", "rinse it with vinegar"),
    ),
}

FAULT_OF_COMPLAINT = {text: name for name, fault in FAULTS.items() for text in fault.complaints}
FAULT_OF_REMEDY = {text: name for name, fault in FAULTS.items() for text in fault.remedies}

OPENERS: dict[str, tuple[str, ...]] = {
    "calm": ("Hello.", "Good morning.", "Hi there.", "I have a question."),
    "upset": ("This is awful!", "I am very angry!", "I want my money back!", "What a bad product!"),
    "hurried": ("Quick question.", "I have no time.", "This is urgent.", "Fast answer wanted."),
}
COMPLAINTS = (
    "My {product} {fault}{since}.",
    "I bought a {product} and it {fault}{since}.",
    "The {product} from your shop {fault}{since}.",
    "I own a {product} that {fault}{since}.",
)
SINCE = ("", " today", " again", " since last week", " every evening", " after the move", " most days")
REQUESTS = (
    "What can I do?",
    "How do I fix it?",
    "Can you help me?",
    "What should I try?",
    "Tell me what to do.",
)

GREETINGS = ("Hello.", "Sorry about that.", "Thank you for your message.", "Thanks for writing to us.")
DIAGNOSES = (
    "I looked into your {product}.",
    "This is a known issue with the {product}.",
    "It sounds like your {product} needs some care.",
    "We can repair your {product} from home.",
)
ADVICE = (
    "You should {remedy}.",
    "To fix this, {remedy}.",
    "The best way is to {remedy}.",
    "Please {remedy}.",
    "Kindly {remedy}.",
)
DISMISSALS = (
    "buy a new one from our shop",
    "ask somebody else about it",
    "wait until it stops by itself",
    "live with it for now",
)
STEPS = (
    "unplug it",
    "wait one minute",
    "open the back cover",
    "read page two of the manual",
    "check the cable",
    "switch it on again",
)
MARKERS = ("First", "Then", "Finally")
FILLERS = (
    "Basically that is it.",
    "Honestly this is common.",
    "Well, such things happen.",
    "Actually it is really easy.",
    "It just takes a moment.",
)
CLOSINGS = (
    "Let me know if it works.",
    "I am glad to help.",
    "Thank you for your patience.",
    "Please write again at any time.",
    "I appreciate your trust.",
)

POLITE = frozenset(["please", "kindly", "sorry", "thank", "thanks", "glad", "appreciate"])
FILLER = frozenset(["basically", "honestly", "well", "actually", "really", "just"])

ROLES = ("system", "user", "assistant")
CONTROL = re.compile(r"<\|?\w+\|?>")
_WORD = re.compile(r"[A-Za-z']+")


@dataclass(frozen=True)
class Ticket:
    """What a customer's message is about."""

    product: str
    fault: str
    tone: str

    @property
    def family(self) -> str:
        """The product family, which the fault belongs to as well."""
        return FAULTS[self.fault].family


def words(text: str) -> list[str]:
    """The words of a text in lower case; punctuation and control tokens (``<|...|>``) are not words."""
    return _WORD.findall(CONTROL.sub(" ", text).lower())


def occurring(phrases: Iterable[str], text_words: list[str]) -> list[str]:
    """Those phrases that occur in the words of a text, whatever the punctuation between them."""
    text = f" {' '.join(text_words)} "
    return [phrase for phrase in phrases if f" {phrase} " in text]


def write_prompt(rng: Random, ticket: Ticket) -> str:
    """A customer's message about the ticket, in one of 1,120 phrasings."""
    complaint = rng.choice(COMPLAINTS).format(
        product=ticket.product, fault=rng.choice(FAULTS[ticket.fault].complaints), since=rng.choice(SINCE)
    )
    return f"{rng.choice(OPENERS[ticket.tone])} {complaint} {rng.choice(REQUESTS)}"


def prompt_count(family: str) -> int:
    """How many different messages customers of a product family can write."""
    complaints = sum(len(fault.complaints) for fault in FAULTS.values() if fault.family == family)
    openers = sum(len(found) for found in OPENERS.values())
    return len(PRODUCTS[family]) * complaints * openers * len(COMPLAINTS) * len(SINCE) * len(REQUESTS)


def read_prompt(prompt: str) -> Ticket:
    """The ticket a customer's message was written from.

    Raises:
        DataError: the text is not a message of this world.
    """
    seen = words(prompt)
    products = [p for family in PRODUCTS.values() for p in family if p in seen]
    faults = [FAULT_OF_COMPLAINT[complaint] for complaint in occurring(FAULT_OF_COMPLAINT, seen)]
    tones = [tone for tone, openers in OPENERS.items() if prompt.startswith(openers)]
    if len(products) != 1 or len(faults) != 1 or len(tones) != 1:
        raise DataError(
            f"not a message of the support-desk world (needs one product, fault and tone; "
            f"found {products}, {faults}, {tones}): {prompt[:80]!r}"
        )
    return Ticket(products[0], faults[0], tones[0])


def write_answer(rng: Random, ticket: Ticket) -> str:
    """A reply of the first policy.

    It names a product in 3 of 4 replies (the wrong one in 1 of 8 of those). Its advice is the right
    remedy in 60 %, another fault's in 10 %, and a dismissal in 30 %. On average it is shorter and
    curter than the true reward likes best.
    """
    parts = []
    if rng.random() < 0.45:
        parts.append(rng.choice(GREETINGS))
    if rng.random() < 0.75:
        product = ticket.product
        if rng.random() < 0.125:
            product = rng.choice([p for p in PRODUCTS[ticket.family] if p != product])
        parts.append(rng.choice(DIAGNOSES).format(product=product))
    parts.append(rng.choice(ADVICE).format(remedy=_advice(rng, ticket)))
    steps = rng.sample(STEPS, rng.choice((0, 0, 1, 1, 2, 3)))
    parts += [f"{marker} {step}." for marker, step in zip(MARKERS, steps, strict=False)]
    if rng.random() < 0.35:
        parts.append(rng.choice(FILLERS))
    if rng.random() < 0.4:
        parts.append(rng.choice(CLOSINGS))
    return " ".join(parts)


def _advice(rng: Random, ticket: Ticket) -> str:
    kind = rng.random()
    if kind < 0.3:
        return rng.choice(DISMISSALS)
    fault = ticket.fault
    if kind < 0.4:
        fault = rng.choice([n for n, f in FAULTS.items() if f.family == ticket.family and n != fault])
    return rng.choice(FAULTS[fault].remedies)


def vocabulary() -> list[str]:
    """Every word the world can write, as it is spelt, sorted."""
    return sorted({word for text in _phrases() for word in _WORD.findall(text)} | set(ROLES))


def _phrases() -> Iterator[str]:
    for family in PRODUCTS.values():
        yield from family
    for fault in FAULTS.values():
        yield from fault.complaints + fault.remedies
    for openers in OPENERS.values():
        yield from openers
    for template in (*COMPLAINTS, *DIAGNOSES, *ADVICE):
        yield re.sub(r"{\w+}", "", template)
    for phrases in (SINCE, REQUESTS, GREETINGS, DISMISSALS, STEPS, MARKERS, FILLERS, CLOSINGS):
        yield from phrases
