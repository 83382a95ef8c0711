"""Kind: a recipe chosen by name in the settings, config and behaviour in one class.

A family (losses, data formats, ...) is a package; each of its kinds is one module holding one
:class:`Kind`, and the kind's name is the module's name. So names can be listed, and a wrong name
answered with the nearest right one, without importing any of them. ``"package.module:Class"``
names a kind outside holdtrue.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Annotated, Any, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    GetJsonSchemaHandler,
    SerializeAsAny,
    ValidationError,
    model_serializer,
)

from holdtrue.errors import SettingsError, unknown


class Kind(BaseModel):
    """Frozen recipe: fields are hyperparameters with vetted defaults, methods are the mathematics.

    Anything with state (modules, optimisers) is built by a kind and kept apart from it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @classmethod
    def name(cls) -> str:
        """The name settings choose this kind by."""
        if cls.__module__.startswith("holdtrue."):
            return cls.__module__.rpartition(".")[2]
        return f"{cls.__module__}:{cls.__qualname__}"

    @model_serializer(mode="wrap")
    def _with_name(self, handler: Any) -> dict[str, Any]:
        return {"kind": self.name(), **handler(self)}


K = TypeVar("K", bound=Kind)


def names(family: str) -> list[str]:
    """Names of the kinds in a family, e.g. ``names("holdtrue.losses")``; imports none of them."""
    package = importlib.import_module(family)
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


def base_of(family: str) -> type[Kind]:
    """The class all kinds of a family derive from: the one its package defines, else Kind."""
    return next(_kinds_in(importlib.import_module(family)), Kind)


def _kinds_in(module: ModuleType) -> Iterator[type[Kind]]:
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, Kind) and value.__module__ == module.__name__:
            yield value


def load(family: str, name: str) -> type[Kind]:
    """The kind's class.

    Raises:
        SettingsError: no such kind (says the nearest), it is of another family, or the module holds none.
    """
    if ":" in name:
        module_name, _, class_name = name.partition(":")
        try:
            found = getattr(importlib.import_module(module_name), class_name)
        except (ImportError, AttributeError, ValueError, TypeError) as error:
            raise SettingsError(f"kind {name!r} cannot be imported: {error}") from error
        base = base_of(family)
        if not (isinstance(found, type) and issubclass(found, base)):
            raise SettingsError(f"kind {name!r} is not a subclass of {base.__module__}.{base.__qualname__}")
        return found
    known = names(family)
    if name not in known:
        raise SettingsError(unknown(_one_of(family), name, known))
    module = importlib.import_module(f"{family}.{name}")
    for found in _kinds_in(module):
        return found
    raise SettingsError(f"{module.__name__} holds no Kind")


def one_of_each(family: str) -> list[Any]:
    """Every kind of a family with its defaults, in order of names."""
    return [load(family, name)() for name in names(family)]


def _one_of(family: str) -> str:
    """``loss`` for ``holdtrue.losses``, ``format`` for ``holdtrue.data.formats``."""
    name = family.rpartition(".")[2]
    if name.endswith("ies"):
        return f"{name.removesuffix('ies')}y"
    return name.removesuffix("es") if name.endswith("sses") else name.removesuffix("s")


def choose(family: str, value: Any, default: str | None) -> Any:
    """Build a kind from ``"name"`` or ``{"kind": "name", ...fields}``; a built kind passes through.

    Fields without ``kind`` are those of the ``default`` kind, if there is one.
    """
    if isinstance(value, Kind):
        return value
    fields = {"kind": value} if isinstance(value, str) else value
    if isinstance(fields, dict):
        fields = {"kind": default, **fields}
    if not isinstance(fields, dict) or not isinstance(fields["kind"], str):
        raise SettingsError(f"a {_one_of(family)} is a name or a mapping with 'kind', got {value!r}")
    cls = load(family, fields["kind"])
    given = {key: item for key, item in fields.items() if key != "kind"}
    for key in given:
        if key not in cls.model_fields:
            raise SettingsError(unknown(f"field of {fields['kind']}", key, cls.model_fields))
    try:
        return cls(**given)
    except ValidationError as error:
        raise SettingsError(explain(error, fields["kind"])) from error


def explain(error: ValidationError, where: str) -> str:
    """The first thing pydantic found wrong as one line: where, what is expected, what was seen."""
    first = error.errors()[0]
    place = ".".join([where, *map(str, first["loc"])]).strip(".")
    seen = "" if isinstance(first["input"], (dict, BaseModel)) else f", got {first['input']!r}"
    message = first["msg"].removeprefix("Value error, ").replace("Input should", "should")
    return f"{place}: {message}{seen}" if place else message


def chosen(family: str, default: str | None) -> Any:
    """Annotation for a settings field that holds one kind of a family."""
    validator = BeforeValidator(lambda value: choose(family, value, default))
    return Annotated[SerializeAsAny[Kind], validator, ChosenSchema(family, default)]


@dataclass(frozen=True)
class ChosenSchema:
    """JSON Schema of a field that holds one kind: a name, or an object with that kind's fields.

    The kinds are imported when the schema is asked for, not before.
    """

    family: str
    default: str | None

    def __get_pydantic_json_schema__(self, core_schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        known = names(self.family)
        outside = {"type": "string", "pattern": "^[^:]+:[^:]+$", "description": "package.module:Class"}
        options: list[dict[str, Any]] = [{"enum": known}, outside]
        for name in known:
            cls = load(self.family, name)
            schema = dict(handler.resolve_ref_schema(handler(cls.__pydantic_core_schema__)))
            schema["properties"] = {"kind": {"const": name}} | schema.get("properties", {})
            if name != self.default:
                schema["required"] = ["kind", *schema.get("required", [])]
            options.append(schema)
        options.append({"type": "object", "properties": {"kind": outside}, "required": ["kind"]})
        return {"anyOf": options}
