"""From names, files, flags and assignments to one config: who wins, and what a mistake is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nano_gpt.config import RunConfig, build, resolve, to_yaml
from nano_gpt.config.loading import find_layers, merge, nested, origins, parse_assignment, setting_paths
from nano_gpt.config.presets import PRESETS, RECIPES
from nano_gpt.errors import ConfigError


def written(folder: Path, text: str) -> Path:
    file = folder / "run.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_each_layer_wins_over_the_one_before(tmp_path: Path) -> None:
    """The learning rate is given by all of them; removing the winner lets the next one through."""
    path = "training.optimizer.learning_rate"
    layers: dict[str, Any] = {
        "preset": "gpt2-medium",
        "recipe": "python_docs",
        "file": written(tmp_path, "training: {optimizer: {learning_rate: 0.5}}"),
        "flags": {path: 0.6},
        "assignments": [f"{path}=0.7"],
    }
    for winner, rate in (("assignments", 0.7), ("flags", 0.6), ("file", 0.5), ("recipe", 1e-3)):
        assert resolve(**layers).training.optimizer.learning_rate == rate
        layers.pop(winner)
    # the preset is left, under a recipe that says nothing of the learning rate
    assert resolve(preset="gpt2-medium", recipe="finewebedu").training.optimizer.learning_rate == 3e-4


def test_later_assignments_win_and_groups_are_merged() -> None:
    config = resolve(assignments=["training.seed=1", "training.optimizer.beta1=0.8", "training.seed=2"])
    assert (config.training.seed, config.training.optimizer.beta1) == (2, 0.8)
    assert config.training.optimizer.learning_rate == resolve().training.optimizer.learning_rate


def test_flags_that_were_not_given_do_not_count(tmp_path: Path) -> None:
    file = written(tmp_path, "training: {seed: 5}")
    assert resolve(file=file, flags={"training.seed": None, "data.dataset": None}).training.seed == 5


@pytest.mark.parametrize("how", ["flag", "file", "assignment"])
def test_a_dataset_brings_its_recipe(how: str, tmp_path: Path) -> None:
    config = {
        "flag": lambda: resolve(flags={"data.dataset": "finewebedu"}),
        "file": lambda: resolve(file=written(tmp_path, "data: {dataset: finewebedu}")),
        "assignment": lambda: resolve(assignments=["data.dataset=finewebedu"]),
    }[how]()
    assert config == resolve(recipe="finewebedu")
    assert (config.model.n_layer, config.training.total_batch_size) == (12, 2**19)


def test_an_own_dataset_gets_the_small_recipe() -> None:
    config = resolve(flags={"data.dataset": "my-notes"})
    assert config.data.dataset == "my-notes"
    assert config.model == resolve(recipe="small").model


def test_a_preset_replaces_the_shape_of_the_recipe_only() -> None:
    config = resolve(preset="gpt2", flags={"data.dataset": "tinyshakespeare"})
    assert (config.model.n_layer, config.model.n_embd, config.model.n_positions) == (12, 768, 1024)
    assert config.training.max_steps == resolve(recipe="tinyshakespeare").training.max_steps


def test_a_preset_and_a_file_with_a_shape_contradict(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--model gpt2 and the model section of .*run\.yaml"):
        resolve(preset="gpt2", file=written(tmp_path, "model: {n_layer: 2}"))


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_resolves(name: str) -> None:
    model = resolve(preset=name).model
    assert model.n_embd % model.n_head == 0
    for dataset in ("python_docs", "tinyshakespeare", "finewebedu", "own"):
        assert resolve(preset=name, flags={"data.dataset": dataset}).model == model


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_resolves_and_comes_back(name: str, tmp_path: Path) -> None:
    config = resolve(recipe=name)
    assert resolve(file=written(tmp_path, to_yaml(config))) == config


def test_sizes_are_the_papers() -> None:
    shapes = {name: resolve(preset=name).model for name in PRESETS}
    assert [(m.n_layer, m.n_head, m.n_embd) for m in shapes.values()] == [
        (12, 12, 768),
        (24, 16, 1024),
        (36, 20, 1280),
        (48, 25, 1600),
        (10, 8, 512),
        (4, 4, 64),
    ]


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        ({"preset": "gpt-2"}, "unknown model preset 'gpt-2'", "did you mean 'gpt2'?"),
        ({"preset": "llama"}, "unknown model preset 'llama'", "known: gpt2, gpt2-large"),
        ({"recipe": "tinyshakespear"}, "unknown recipe 'tinyshakespear'", "did you mean 'tinyshakespeare'?"),
        ({"assignments": ["training.max_step=3"]}, "unknown setting 'training.max_step'", "'training.max_steps'?"),
        (
            {
                "assignments": [
                    "training.lr_schedule.name=wsd",
                    "training.lr_schedule.warmup_steps=700",
                    "training.max_steps=800",
                ]
            },
            "warmup_steps 700 reaches into the decay, which begins at step 640",
            None,
        ),
        ({"assignments": ["training.batch_ramp_start=1024"]}, "belong together", None),
        (
            {
                "flags": {
                    "training.batch_ramp_start": 768,
                    "training.batch_ramp_steps": 9,
                    "training.total_batch_size": 4096,
                    "model.n_positions": 64,
                }
            },
            "768 does not become total_batch_size 4096 by doubling: 2048, 1024, 512 do",
            None,
        ),
        (
            {
                "flags": {
                    "training.batch_ramp_start": 1024,
                    "training.batch_ramp_steps": 9,
                    "training.total_batch_size": 4096,
                    "model.n_positions": 2048,
                }
            },
            "training.batch_ramp_start 1024 is not a multiple of model.n_positions 2048: 2048 would do",
            None,
        ),
        ({"assignments": ["learning_rate=3"]}, "'learning_rate'", "'training.optimizer.learning_rate'?"),
        ({"assignments": ["zzz=3"]}, "unknown setting 'zzz'", "nano-gpt config prints all of them"),
        ({"assignments": ["training.seed"]}, "--set 'training.seed' is not of the form name=value", "--set training."),
        ({"assignments": ["training.seed=-1"]}, "training.seed = -1: input should be greater than", None),
        ({"assignments": ["training.max_steps=2.5"]}, "training.max_steps = 2.5: input should be a valid int", None),
        ({"assignments": ["training.max_steps=many"]}, "training.max_steps = 'many': input should be a valid", None),
        ({"assignments": ["training.max_steps=null"]}, "training.max_steps = None: input should be a valid", None),
        ({"assignments": ["training.dtype=fp8"]}, "training.dtype = 'fp8': input should be 'auto', 'bf16'", None),
        ({"assignments": ["training.optimizer.learning_rate=.inf"]}, "learning_rate = inf: ", None),
        ({"assignments": ["training.optimizer.learning_rate=.nan"]}, "learning_rate = nan: ", None),
        ({"assignments": ["model=3"]}, "model = 3: input should be a valid dictionary", None),
        ({"assignments": ["model.n_embd=100", "model.n_head=12"]}, "n_embd 100 is not divisible by n_head 12", None),
        ({"assignments": ["training.total_batch_size=1000"]}, "total_batch_size 1000 is not a multiple of", None),
        ({"assignments": ["training.lr_schedule.warmup_steps=9999"]}, "lr_schedule.warmup_steps 9999 is more", None),
    ],
)
def test_a_mistake_is_one_line_that_names_it(arguments: dict[str, Any], message: str, hint: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(**arguments)
    assert message in caught.value.message
    assert "\n" not in caught.value.message
    assert hint is None or hint in str(caught.value.hint)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training: {seed: 1\n", "line 2, column 1: not YAML"),
        ("- a\n- b\n", "a mapping of settings is expected, not list"),
        ("just words\n", "a mapping of settings is expected, not str"),
        ("training: [1]\n", "training = [1]: input should be a valid dictionary"),
        ("trainign: {seed: 1}\n", "unknown setting 'trainign'"),
        ("1: 2\n", "1"),
        ("model: &loop {model: *loop}\n", "unknown setting 'model.model'"),
        ("!!python/object/apply:os.system ['true']\n", "not YAML"),
        ("[" * 5000, "not YAML"),
        ("training: {seed: \x00}\n", "not YAML"),
    ],
)
def test_a_bad_file_is_one_line_that_names_it(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(file=written(tmp_path, text))
    assert message in caught.value.message
    assert "\n" not in caught.value.message


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*none\.yaml: No such file"):
        resolve(file=tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot read"):
        resolve(file=tmp_path)
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("data: {dataset: caf\xe9}".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin\.yaml: not YAML"):
        resolve(file=latin)


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    assert resolve(file=written(tmp_path, "# nothing\n")) == resolve()


def test_numbers_without_a_dot_are_numbers(tmp_path: Path) -> None:
    """YAML 1.1 reads 6e-4 as a string; a user means a number."""
    assert resolve(assignments=["training.optimizer.learning_rate=6e-4"]).training.optimizer.learning_rate == 6e-4
    file = written(tmp_path, "training: {optimizer: {learning_rate: 6e-4}}")
    assert resolve(file=file).training.optimizer.learning_rate == 6e-4


def test_null_and_lists_can_be_assigned() -> None:
    config = resolve(assignments=["evaluation.validation_steps=null", "data.files=[a.txt, b.txt]", "sampling.prompt="])
    assert config.evaluation.validation_steps is None
    assert config.data.files == (Path("a.txt"), Path("b.txt"))
    assert config.sampling.prompt == ""


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        resolve().training.seed = 3  # type: ignore[misc]


def test_merging_and_nesting() -> None:
    assert merge({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}, "d": [1]}, {"d": [2]}) == {"a": {"b": 3, "c": 2}, "d": [2]}
    assert nested({"a.b": 1, "a.c.d": 2, "e": 3}) == {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    assert parse_assignment("a.b=c=d") == ("a.b", "c=d")


def test_every_setting_is_explained() -> None:
    def unexplained(settings_class: Any, prefix: str = "") -> list[str]:
        found = []
        for name, field in settings_class.model_fields.items():
            if not field.description:
                found.append(prefix + name)
            if hasattr(field.annotation, "model_fields"):
                found += unexplained(field.annotation, f"{prefix}{name}.")
        return found

    assert unexplained(RunConfig) == []
    assert "training.optimizer.beta2" in set(setting_paths(RunConfig))


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
overrides = st.fixed_dictionaries(
    {},
    optional={
        "model": st.fixed_dictionaries(
            {"n_head": st.just(2), "n_embd": st.integers(1, 50).map(lambda n: 2 * n), "n_positions": st.just(64)},
            optional={"vocab_size": st.none() | st.integers(1, 10**6), "dropout": st.floats(0, 0.99)},
        ),
        "data": st.fixed_dictionaries(
            {},
            optional={
                "dataset": text,
                "document_separator": st.none() | text,
                "files": st.lists(text.filter(bool).map(lambda name: str(Path(name))), max_size=3),
                "shuffle": st.booleans(),
            },
        ),
        "training": st.fixed_dictionaries(
            {},
            optional={
                "seed": st.integers(0, 2**70),
                "compile": st.none() | st.booleans(),
                "dtype": st.sampled_from(["auto", "bf16", "fp32"]),
                "optimizer": st.fixed_dictionaries(
                    {}, optional={"learning_rate": st.floats(1e-300, 1e300), "eps": st.floats(5e-324, 1.0)}
                ),
                "log_file": st.none() | text.filter(bool).map(lambda name: str(Path(name))),
            },
        ),
        "sampling": st.fixed_dictionaries({}, optional={"prompt": text, "temperature": st.floats(0, 1e9)}),
    },
)


@settings(max_examples=60, deadline=None)
@example(values={"data": {"dataset": "\x85"}})
@given(values=overrides)
def test_yaml_round_trip(values: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Any run, printed and read back, is the same run: `nano-gpt config > run.yaml; train --config run.yaml`."""
    config = build(RunConfig, values)
    file = written(tmp_path_factory.mktemp("round"), to_yaml(config))
    assert resolve(file=file) == config


def test_it_is_known_which_source_decided(tmp_path: Path) -> None:
    file = written(tmp_path, "training: {max_steps: 7, seed: 3}")
    layers = find_layers(
        recipe="shakespeare_char",
        file=file,
        flags={"training.seed": 4, "data.dataset": None},
        assignments=["model.dropout=0"],
    )
    found = origins(layers)
    assert found["training.max_steps"] == str(file)
    assert found["training.seed"] == "flag"
    assert found["model.dropout"] == "--set"
    assert found["model.n_embd"] == "recipe shakespeare_char"
    assert found["training.total_batch_size"] == "recipe shakespeare_char"
    assert found["data.dataset"] == "recipe shakespeare_char"
    assert "training.dtype" not in found
    assert origins(find_layers(preset="gpt2-medium"))["model.n_layer"] == "preset gpt2-medium"


def test_weights_bring_their_own_recipe() -> None:
    config = resolve(flags={"training.pretrained": "gpt2", "data.dataset": "tinyshakespeare"})
    assert config.training.optimizer.learning_rate == 3e-5 and config.data.dataset == "tinyshakespeare"
    assert "n_positions" not in config.model.model_fields_set, "those of the weights"
