"""Recipes: what is refused, and in which words."""

from pathlib import Path

import pytest
import yaml

from neuroreg import checkpoints
from neuroreg.errors import DataError, NoInputError, UsageError
from neuroreg.training.recipe import Recipe, load_recipe
from neuroreg.training.run import build
from neuroreg.training.trainer import recipe_digest

ABLATIONS = Path(__file__).parents[1] / "examples" / "ablations"
GOOD: dict[str, object] = {
    "name": "toy",
    "method": "neuroreg",
    "data": {"train": "train.npz", "val": "val.npz"},
    "steps": 4,
    "learning_rate": 1e-3,
}


def write(path: Path, contents: object) -> Path:
    path.write_text(contents if isinstance(contents, str) else yaml.safe_dump(contents), encoding="utf-8")
    return path


def test_a_good_recipe_gets_the_defaults(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path / "r.yaml", GOOD))
    assert recipe == Recipe.model_validate(GOOD)
    assert (recipe.seed, recipe.symmetric, recipe.precision) == (0, False, "bf16")
    assert recipe.augmentation.mirror == 0.5


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"learningrate": 1.0}, "option learningrate"),
        ({"augmentation": {"mirrors": 1}}, r"option augmentation\.mirrors"),
        ({"data": {"train": "a", "val": "b", "test": "c"}}, r"option data\.test"),
        ({"steps": 0}, "option steps"),
        ({"learning_rate": -1}, "option learning_rate"),
        ({"precision": "int8"}, "option precision"),
        ({"name": "../evil"}, "option name"),
        ({"name": ".."}, "option name"),
        ({"name": "-x"}, "option name"),
        ({"augmentation": {"mirror": 1.5}}, r"option augmentation\.mirror"),
    ],
)
def test_a_wrong_option_is_named_with_its_file(
    tmp_path: Path, changes: dict[str, object], named: str
) -> None:
    with pytest.raises(DataError, match=f"{named}.*r\\.yaml"):
        load_recipe(write(tmp_path / "r.yaml", GOOD | changes))


@pytest.mark.parametrize("missing", ["name", "method", "data", "steps", "learning_rate"])
def test_a_missing_option_is_named(tmp_path: Path, missing: str) -> None:
    contents = {key: value for key, value in GOOD.items() if key != missing}
    with pytest.raises(DataError, match=f"option {missing}: .*required"):
        load_recipe(write(tmp_path / "r.yaml", contents))


def test_every_fault_is_named_at_once(tmp_path: Path) -> None:
    wrong = {key: value for key, value in GOOD.items() if key != "method"} | {"steps": 0, "stepps": 3}
    with pytest.raises(DataError) as found:
        load_recipe(write(tmp_path / "r.yaml", yaml.safe_dump(wrong)))
    assert found.value.what == (
        "option method: Field required; option steps: Input should be greater than 0 (got 0); "
        "option stepps: Extra inputs are not permitted"
    )


@pytest.mark.parametrize("contents", ["", "- a\n- b\n", "just text"])
def test_anything_but_a_table_is_refused(tmp_path: Path, contents: str) -> None:
    with pytest.raises(DataError, match=r"expected a table of options; r\.yaml"):
        load_recipe(write(tmp_path / "r.yaml", contents))


def test_files_that_are_not_yaml_are_refused(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_bytes(b"\x80\x81\xff")
    with pytest.raises(DataError, match=r"not a YAML file; r\.yaml"):
        load_recipe(tmp_path / "r.yaml")
    with pytest.raises(DataError, match="not a YAML file"):
        load_recipe(write(tmp_path / "r.yaml", "a: [1, 2"))
    with pytest.raises(DataError, match="not a YAML file"):  # no code is run from a recipe
        load_recipe(write(tmp_path / "r.yaml", "a: !!python/object/apply:os.getcwd []"))
    with pytest.raises(NoInputError, match=r"none\.yaml"):
        load_recipe(tmp_path / "none.yaml")


def test_the_recipes_beside_the_weights_build_their_networks() -> None:
    found = sorted(checkpoints.weights_home().glob("*.yaml"))
    assert found
    for path in [*found, *sorted(ABLATIONS.glob("*.yaml"))]:
        for device in ("cpu", "cuda"):
            recipe = load_recipe(path).on(device)
            assert recipe.name == path.stem
            if recipe.initial is not None:  # published, or the run of an ablation that has a recipe
                assert recipe.begins_with in {path.stem for path in [*found, *ABLATIONS.glob("*.yaml")]}
            method = build(recipe.model_copy(update={"initial": None}))
            assert sum(p.numel() for p in method.network.parameters()) > 10_000
            type(method).Config.model_validate({**recipe.config, **recipe.inference})


def recipe(**changes: object) -> Recipe:
    return Recipe.model_validate(GOOD | changes)


@pytest.mark.parametrize(
    ("initial", "name"),
    [
        (None, None),
        ("a-1.5", "a-1.5"),
        ("elsewhere/b.safetensors", "b"),
        ("runs/c/best.safetensors", "c"),
    ],
)
def test_what_a_recipe_begins_with_has_a_name(initial: str | None, name: str | None) -> None:
    assert recipe(initial=initial).begins_with == name


def test_weights_to_begin_with_that_are_not_trained_yet_are_named(tmp_path: Path) -> None:
    missing = tmp_path / "runs" / "coarse" / "best.safetensors"
    with pytest.raises(NoInputError, match=r"begins with coarse.*train the recipe coarse\.yaml first"):
        build(recipe(initial=str(missing)))


def test_unknown_and_untrainable_methods_are_usage_errors() -> None:
    with pytest.raises(UsageError, match="Did you mean 'dualprnet'"):
        build(recipe(method="dualprnt"))
    with pytest.raises(UsageError, match="'gaussnewton' has nothing to train"):
        build(recipe(method="gaussnewton"))
    with pytest.raises(DataError, match="config of the method: option smoothnes"):
        build(recipe(config={"smoothnes": 1.0}))


def test_coarse_steps_are_of_the_run_or_of_each_stage() -> None:
    assert recipe(coarse_steps=7).coarse_by_stage([3, 5, 4]) == [3, 4, 0]
    assert recipe(coarse_steps=[2, 9, 0]).coarse_by_stage([3, 5, 4]) == [2, 5, 0]
    with pytest.raises(DataError, match="coarse_steps has 2 numbers, method 'neuroreg' 3 stages"):
        recipe(coarse_steps=[2, 9]).coarse_by_stage([3, 5, 4])
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        recipe(coarse_steps=[2, -1])


def test_the_digest_covers_what_training_depends_on() -> None:
    same = recipe(inference={"spacing_mm": 1.0}, data={"train": "/elsewhere/t.npz", "val": "v.npz"})
    assert recipe_digest(same) == recipe_digest(recipe())
    others = (recipe(seed=1), recipe(config={"dice": 0.1}), recipe(symmetric=True), recipe(steps=5))
    assert len({recipe_digest(other) for other in (*others, recipe())}) == 5


def test_a_graphics_card_has_a_budget_of_its_own(tmp_path: Path) -> None:
    gpu = {"steps": 900, "coarse_steps": 0, "config": {"codes": 4}}
    contents = GOOD | {"config": {"codes": 2, "dice": 0.1}, "coarse_steps": 2, "gpu": gpu}
    both = load_recipe(write(tmp_path / "r.yaml", contents))
    here, there = both.on("cpu"), both.on("cuda")
    assert (here.steps, here.coarse_steps, here.config) == (4, 2, {"codes": 2, "dice": 0.1})
    assert (there.steps, there.coarse_steps, there.config) == (900, 0, {"codes": 4, "dice": 0.1})
    assert here.gpu is there.gpu is None
    assert there.learning_rate == both.learning_rate
    without = recipe(config=here.config, coarse_steps=2)
    assert recipe_digest(both) == recipe_digest(here) == recipe_digest(without) != recipe_digest(there)
    assert both.on("mps") == here
    with pytest.raises(DataError, match=r"option gpu\.seed"):
        load_recipe(write(tmp_path / "r.yaml", contents | {"gpu": {"seed": 1}}))
