"""From names, a YAML file, flags and `--set` to one RunConfig.

    preset < dataset's recipe < --config FILE < flags < --set a.b=value

The sources are merged as nested dicts and the config is built once, so a value is checked once and never changed.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from nano_gpt.config.base import Settings
from nano_gpt.config.presets import Values, preset_values, recipe_for, recipe_preset, recipe_values
from nano_gpt.config.run import RunConfig
from nano_gpt.errors import ConfigError

S = TypeVar("S", bound=Settings)


def resolve(
    *,
    preset: str | None = None,
    recipe: str | None = None,
    file: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    assignments: Sequence[str] = (),
) -> RunConfig:
    """The run that these sources describe. `flags` maps dotted paths to values; None means "not given".

    Raises ConfigError for an unknown name or key, a value of the wrong type, or two settings that do not fit.
    """
    layers = find_layers(preset=preset, recipe=recipe, file=file, flags=flags, assignments=assignments)
    return build(RunConfig, merge(*layers.values()))


def find_layers(
    *,
    preset: str | None = None,
    recipe: str | None = None,
    file: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    assignments: Sequence[str] = (),
) -> dict[str, Values]:
    """The sources of `resolve` by name, the weakest first."""
    from_file = read_yaml(file) if file else {}
    from_flags = nested({path: value for path, value in (flags or {}).items() if value is not None})
    from_sets = nested(dict(parse_assignment(text) for text in assignments))

    if preset and "model" in from_file:
        raise ConfigError(f"--model {preset} and the model section of {file} both give the shape", "leave one out")
    recipe = recipe or _recipe_of(merge(from_file, from_flags, from_sets))
    base = recipe_values(recipe)
    if preset:
        base = {key: value for key, value in base.items() if key != "model"}
    preset = preset or recipe_preset(recipe)
    return {
        f"preset {preset}": preset_values(preset),
        f"recipe {recipe}": base,
        str(file): from_file,
        "flag": from_flags,
        "--set": from_sets,
    }


def origins(layers: Mapping[str, Values]) -> dict[str, str]:
    """Which layer has decided each setting that any of them gives, by its path."""
    return {path: name for name, values in layers.items() for path in _leaves(values)}


def _leaves(values: Values, prefix: str = "") -> Iterable[str]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _recipe_of(asked: Values) -> str:
    training, data = asked.get("training"), asked.get("data")
    if isinstance(training, dict) and training.get("pretrained") is not None:
        lora = training.get("lora")
        return "lora" if isinstance(lora, dict) and lora.get("rank") is not None else "finetune"
    dataset = data.get("dataset") if isinstance(data, dict) else None
    return recipe_for(str(dataset or RunConfig().data.dataset))


def build(settings: type[S], values: Values) -> S:
    """Validate `values`; the first fault becomes a ConfigError that names the setting, its value and the remedy."""
    try:
        return settings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = [str(part) for part in first["loc"]]
        raise _explain(settings, first["type"], where, first["msg"], first["input"]) from None


def _explain(settings: type[BaseModel], kind: str, where: list[str], message: str, value: object) -> ConfigError:
    path = ".".join(where)
    if kind == "extra_forbidden":
        known = list(setting_paths(settings))
        same_name = [candidate for candidate in known if candidate.rsplit(".", 1)[-1] == where[-1]]
        near = same_name or difflib.get_close_matches(path, known, n=1, cutoff=0.6)
        return ConfigError(
            f"unknown setting {path!r}", f"did you mean {near[0]!r}?" if near else "nano-gpt config prints all of them"
        )
    text = message.removeprefix("Value error, ")
    if kind == "value_error":  # our own validators name both values and the remedy themselves
        return ConfigError(f"{path}: {text}" if path else text)
    return ConfigError(f"{path} = {value!r}: {text[:1].lower()}{text[1:]}")


def setting_paths(settings: type[BaseModel], prefix: str = "") -> Iterable[str]:
    """Every setting as a dotted path, groups and leaves."""
    for name, field in settings.model_fields.items():
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from setting_paths(field.annotation, f"{prefix}{name}.")


def merge(*layers: Values) -> Values:
    """Later layers win; dicts are merged key by key, everything else is replaced."""
    merged: Values = {}
    for layer in layers:
        for key, value in layer.items():
            old = merged.get(key)
            merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def nested(flat: Mapping[str, Any]) -> Values:
    """{"a.b": 1} -> {"a": {"b": 1}}"""
    values: Values = {}
    for path, value in flat.items():
        for part in reversed(path.split(".")):
            value = {part: value}
        values = merge(values, value)
    return values


def parse_assignment(text: str) -> tuple[str, Any]:
    """`training.optimizer.beta2=0.99` -> (path, value); the value is read as YAML, so null, true and lists work."""
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise ConfigError(f"--set {text!r} is not of the form name=value", "--set training.optimizer.beta2=0.99")
    try:
        return path.strip(), yaml.safe_load(value) if value else ""
    except yaml.YAMLError:
        return path.strip(), value


def read_yaml(path: Path) -> Values:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or type(error).__name__
        raise ConfigError(f"{path}{where}: not YAML: {problem}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: a mapping of settings is expected, not {type(content).__name__}")
    return content


def to_yaml(settings: Settings) -> str:
    """What `resolve(file=...)` reads back to an equal object."""
    # Escaped to ASCII: PyYAML writes a few exotic line ends (U+0085) in a way that it does not read back.
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=False)
