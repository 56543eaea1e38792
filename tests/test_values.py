"""Every value of every command is checked by one rule: the annotation of what it is for."""

from __future__ import annotations

import dataclasses
import math
import re
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pytest
import torch
import yaml
from annotated_types import Ge, Gt, Interval, Len, Predicate
from omegaconf import DictConfig, OmegaConf
from wrong_values import COMPOSED, Case, cases, changed, composed, leaves, sample

from pspnet_lightning.config import CONFIG_DIR, build, build_data, build_module, check_config, settle_precision
from pspnet_lightning.config.annotations import Wrong, check, parameters, values_of
from pspnet_lightning.config.schemas import PRIMARIES, Kind
from pspnet_lightning.config.values import _Model, places
from pspnet_lightning.data.mixing import KINDS
from pspnet_lightning.launch.app import user_errors
from pspnet_lightning.models import build_pspnet
from pspnet_lightning.models.build import HEADS
from pspnet_lightning.models.fusion import FUSIONS
from pspnet_lightning.models.pyramid import EXECUTIONS, POOLINGS
from pspnet_lightning.models.resnet import DILATIONS, STAGE_BLOCKS, STEMS, STRIDES_ON
from pspnet_lightning.sizes import distinct
from pspnet_lightning.training.losses import REDUCTIONS
from pspnet_lightning.training.losses.class_weights import _METHODS

if TYPE_CHECKING:
    from somewhere import Nobody


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, DictConfig]]:
    folder = tmp_path_factory.mktemp("run")
    return {name: composed(name, folder) for name in COMPOSED}


# ---------------------------------------------------------------------- annotations


def even(value: int) -> bool:
    """Even."""
    return value % 2 == 0


@pytest.mark.parametrize(
    ("annotation", "right", "wrong", "text"),
    [
        (int, [0, -3], [True, 1.0, "1", None], "a whole number"),
        (float, [0, 1.5], [True, "1", math.inf, math.nan], "a number"),
        (bool, [True], [0, 1, "true"], "true or false"),
        (str, ["a", ""], [1.5, True, None, ["a"]], "a text"),
        (Annotated[int, Ge(1)] | None, [1, None], [0, "null"], "a whole number of at least 1, or null"),
        (Annotated[float, Interval(ge=0, lt=1)], [0, 0.5], [1, -0.1], "a number of at least 0 and below 1"),
        (Annotated[int, Interval(ge=1, le=9)], [1, 9], [0, 10], "a whole number from 1 to 9"),
        (Annotated[int, Predicate(even)], [2], [1], "a whole number, even"),
        (Literal["a", 1, None], ["a", 1, None], ["b", 2], "a, 1 or null"),
        (Sequence[int], [[1], (1, 2), []], [1, "12", [1.5], {1: 2}], "a list, each a whole number"),
        (Annotated[list[int], Len(2, 2)], [[1, 2]], [[1], [1, 2, 3]], "a list of 2, each a whole number"),
        (tuple[float, float], [[0, 1]], [[0], [0, "a"]], "a list of 2: a number, a number"),
        (
            dict[int, bool],
            [{1: True}],
            [{"a": True}, {1: 0}, []],
            "a mapping {key: value}, each key a whole number, each value true or false",
        ),
        (int | Literal["auto"], [3, "auto"], ["a", 1.5], "a whole number, or auto"),
    ],
)
def test_what_an_annotation_says(annotation: Any, right: list[Any], wrong: list[Any], text: str) -> None:
    values = values_of(annotation)
    assert values is not None
    assert values.text == text
    for value in right:
        assert check(value, values) == (list(value) if isinstance(value, tuple) else value)
    for value in wrong:
        with pytest.raises(Wrong, match=re.escape(text)):
            check(value, values)


def test_a_whole_number_where_a_text_belongs_is_that_text() -> None:
    text, texts, either = values_of(str | None), values_of(list[str]), values_of(int | str)
    assert text is not None
    assert texts is not None
    assert either is not None
    assert check(2024, text) == "2024"
    assert check([7, "a"], texts) == ["7", "a"]
    assert check(7, either) == 7
    with pytest.raises(Wrong):
        check(1.10, text)  # the text would be 1.1


@pytest.mark.parametrize("annotation", [torch.nn.Module, Callable[[int], int], Any, int | torch.Tensor, Iterator, Kind])
def test_of_other_annotations_nothing_is_known(annotation: Any) -> None:
    assert values_of(annotation) is None


class Theirs:
    """A user's own class, one of whose annotations only a type checker can read."""

    def __init__(
        self,
        model: torch.nn.Module,
        size: Annotated[int, Gt(2)],
        other: Nobody,
        mode: str = None,  # noqa: RUF013
        **more: Any,
    ) -> None:
        self.size = size


def test_the_users_own_class_is_checked_from_its_own_annotations(
    configs: dict[str, tuple[str, DictConfig]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pspnet_lightning.models.Theirs", Theirs, raising=False)
    assert parameters(Theirs)["other"] == (Any, parameters(Theirs)["other"][1])
    node = {"_target_": "pspnet_lightning.models.Theirs", "size": 3, "other": object(), "mode": None, "free": "x"}
    assert build(node, "callbacks.own", model=torch.nn.Identity()).size == 3
    with pytest.raises(ValueError, match=r"callbacks\.own\.size=2 must be a whole number above 2$"):
        build({**node, "size": 2}, "callbacks.own", model=torch.nn.Identity())
    with pytest.raises(ValueError, match=r"callbacks\.own\.mode=\[\] must be a text$"):
        build({**node, "mode": []}, "callbacks.own")
    cfg = changed(configs["train"][1], "callbacks.own", {**node, "other": 1, "size": "abc"})
    with pytest.raises(ValueError, match=r"^callbacks\.own\.size=abc must be a whole number above 2$"):
        check_config(cfg, "train")


# ---------------------------------------------------------------------- every leaf of every primary


def test_all_that_is_composed_passes(configs: dict[str, tuple[str, DictConfig]]) -> None:
    assert {primary for primary, _ in configs.values()} == set(PRIMARIES)
    for primary, cfg in configs.values():
        check_config(cfg, primary)


def test_of_every_leaf_it_is_known_what_it_may_be(configs: dict[str, tuple[str, DictConfig]]) -> None:
    unknown = {place.key for primary, cfg in configs.values() for place in leaves(primary, cfg) if place.values is None}
    assert unknown == set()


# Words of the issue, each with what must be said.
EXAMPLES = [
    ("train", "data.batch_size", ["abc", None, []], "a whole number of at least 1"),
    ("train", "data.lr", [math.inf, None, [1]], "a number above 0"),
    ("train", "data.epochs", ["abc", 1.5, None], "a whole number of at least 1"),
    ("train, a folder", "data.val_fraction", ["abc", 0, 1], "a number above 0 and below 1"),
    ("train", "trainer.accumulate_grad_batches", [0], "a whole number of at least 1"),
    ("train", "optimizer.weight_decay", ["abc"], "a number of at least 0"),
    ("train", "loss.aux_weight", ["abc", -1], "a number of at least 0"),
    ("train, a sum of losses", "loss.terms.dice.smooth", ["abc", -1], "a number of at least 0"),
    ("train, a sum of losses", "loss.terms.dice.weight", [None, -1], "a number of at least 0"),
    ("train", "scheduler.power", [-1], "a number of at least 0"),
    ("train, ade20k", "data.root", [None], "a text"),
    ("evaluate", "evaluation.scales", [[1000], []], "a list of at least 1, each a number from 0.05 to 20"),
    ("train", "trainer.gradient_clip_val", [-1], "a number of at least 0, or null"),
    ("train", "optimizer.momentum", [2, math.nan], "a number of at least 0 and below 1"),
    ("train", "float32_matmul_precision", ["ultra"], "highest, high or medium"),
    ("train", "model.bins", [[1, 1], [0], "abc"], "a list, each a whole number from 1 to 512, no two alike"),
    ("train", "trainer.max_epochs", [None, 0], "a whole number of at least 1, or -1"),
    ("train", "trainer.max_time", ["1 day", "1:00"], "a text, DD:HH:MM:SS, or a mapping"),
    ("train", "trainer.precision", ["8", "half"], "32-true, bf16-mixed, 16-mixed"),
    ("train", "data.num_workers", [-1, 100000, "all"], "a whole number from 0 to 1024, or auto"),
]


@pytest.mark.parametrize(("name", "key", "values", "text"), EXAMPLES, ids=lambda value: str(value)[:40])
def test_the_issues_examples(
    configs: dict[str, tuple[str, DictConfig]], name: str, key: str, values: list[Any], text: str
) -> None:
    primary, cfg = configs[name]
    for value in values:
        with pytest.raises(ValueError, match=rf"{re.escape(key)}=.* must be {re.escape(text)}"):
            check_config(changed(cfg, key, value), primary)


def outcome(case: Case, configs: dict[str, tuple[str, DictConfig]]) -> str | None:
    """What is said of a changed value, None if it is taken. Any error but a clear one fails here."""
    primary, cfg = configs[case.composed]
    other = changed(cfg, case.key, case.value)
    try:
        check_config(other, primary)
    except ValueError as error:
        return str(error)
    return None


def test_every_changed_leaf_is_a_clear_error_or_right(configs: dict[str, tuple[str, DictConfig]]) -> None:
    """320 of all the cases, every leaf among them; all of them in the slow test below."""
    chosen = sample(cases(configs), 320)
    assert len(chosen) == 320
    said = [(case, outcome(case, configs)) for case in chosen]
    for case, text in said:
        _is_clear(case, text, configs)
    assert sum(text is not None for _, text in said) > 200


def _is_clear(case: Case, text: str | None, configs: dict[str, tuple[str, DictConfig]]) -> None:
    if text is None:
        return
    primary, cfg = configs[case.composed]
    place = next(place for place in leaves(primary, cfg) if place.key == case.key)
    assert place.values is not None
    assert case.key in text, (case, text)
    # A name that cannot be imported has no range.
    needs = "needs a _target_" in text  # of a node: what may stand there is said in other words
    assert place.values.text in text or needs or case.key.endswith("_target_"), (case, text)


# Those of the scenes whose parts differ.
BUILT = ("train", "train, other parts", "train, a sum of losses", "train, another network", "train, in a sweep")


@pytest.mark.slow
def test_every_leaf_changed_in_every_way(configs: dict[str, tuple[str, DictConfig]]) -> None:
    """Everything that is taken for a training run on the scenes is also built, and has its optimiser's rates."""
    counts = {"wrong": 0, "built": 0, "taken": 0}
    for case in cases(configs):
        text = outcome(case, configs)
        _is_clear(case, text, configs)
        counts["wrong" if text else "taken"] += 1
        if text is None and case.composed in BUILT and "compile" not in case.key:
            _builds(case, configs[case.composed][1])
            counts["built"] += 1
    print(counts)
    assert counts["wrong"] > 3000
    assert counts["built"] > 300


def test_what_is_taken_is_right(configs: dict[str, tuple[str, DictConfig]]) -> None:
    found = [case for case in cases(configs) if case.composed == "train" and "compile" not in case.key]
    taken = [case for case in sample(found, 150, seed=1) if outcome(case, configs) is None]
    assert len(taken) > 10
    for case in taken:
        _builds(case, configs["train"][1])


def _builds(case: Case, cfg: DictConfig) -> None:
    """Builds all that a run builds; an error must be of those that a user sees as one line, and name the key."""
    other = changed(cfg, case.key, case.value)
    last = case.key.rpartition(".")[2]
    try:
        data = build_data(other)
        module = build_module(other, data.spec, data=data)
        assert all(rate > 0 for rate in module.rates().values())
        next(iter(data.train_dataloader()))
        for group in ("callbacks", "logger"):
            for name, node in other[group].items():
                if node:
                    build(node, f"{group}.{name}")
        node = {**OmegaConf.to_container(other.trainer, resolve=True), "sync_batchnorm": False}
        build(node, "trainer", logger=False, enable_checkpointing=False)
    except user_errors() as error:
        if last not in str(error) and str(case.value) not in str(error):
            raise AssertionError(f"{case}: {error}") from error


# ---------------------------------------------------------------------- one place for a default and for a word


def test_a_default_stands_in_the_yaml_alone() -> None:
    for name, schema in PRIMARIES.items():
        _has_all(schema, yaml.safe_load((CONFIG_DIR / f"{name}.yaml").read_text()), name)


def _has_all(schema: type, content: Mapping[str, Any], where: str) -> None:
    groups = {next(iter(item)) for item in content.get("defaults", []) if isinstance(item, Mapping)}
    hints = typing.get_type_hints(schema, include_extras=True)
    for item in dataclasses.fields(schema):
        assert item.default is dataclasses.MISSING
        assert item.default_factory is dataclasses.MISSING
        assert item.name in content or item.name in groups, f"{where}: {item.name} has no value in the YAML"
        nested = hints[item.name]
        if dataclasses.is_dataclass(nested) and item.name not in groups:
            _has_all(typing.cast(type, nested), content[item.name], f"{where}.{item.name}")


def test_no_value_is_left_open_but_what_the_user_must_give(configs: dict[str, tuple[str, DictConfig]]) -> None:
    required = {"checkpoint", "input", "output", "weights", "source", "folder"}
    for primary, cfg in configs.values():
        open_keys = {
            place.key for place in places(OmegaConf.to_container(cfg, resolve=True), primary) if place.value == "???"
        }
        assert {key for key in open_keys if not key.startswith("data.")} <= required


def test_the_words_are_those_that_the_code_knows() -> None:
    def words(annotation: Any) -> set[Any]:
        return set(typing.get_args(annotation))

    found = {name: annotation for name, (annotation, _) in parameters(build_pspnet).items()}
    assert words(found["depth"]) == set(STAGE_BLOCKS)
    assert words(found["stem"]) == set(STEMS)
    assert words(found["dilation"]) == set(DILATIONS)
    assert words(found["stride_on"]) == set(STRIDES_ON)
    assert words(found["pooling"]) == set(POOLINGS)
    assert words(found["execution"]) == set(EXECUTIONS)
    parts = typing.get_type_hints(_Model)
    assert words(parts["head"]) == set(HEADS)
    assert words(parts["fusion"]) == set(FUSIONS)
    assert distinct([1, 2, 3])
    assert not distinct([1, 1])
    assert set(REDUCTIONS) == {"global", "rank"}
    assert set(_METHODS) == {"balanced", "median_frequency", "enet"}
    assert set(KINDS) == {"cutmix", "classmix", "copy_paste"}


# ---------------------------------------------------------------------- the precision that runs


@pytest.mark.parametrize(
    ("asked", "accelerator", "runs"),
    [
        ("16-mixed", "cpu", "bf16-mixed"),
        (16, "cpu", "bf16-mixed"),
        ("32-true", "cpu", "32-true"),
        ("bf16-mixed", "cpu", "bf16-mixed"),
        ("16-mixed", "gpu", "16-mixed"),
    ],
)
def test_the_precision_that_runs_is_the_one_recorded(
    asked: Any, accelerator: str, runs: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = OmegaConf.create({"trainer": {"precision": asked, "accelerator": accelerator}})
    settle_precision(cfg)
    assert cfg.trainer.precision == runs
    said = capsys.readouterr().out
    assert ("bf16-mixed runs, and is recorded" in said) == (asked != runs)
    if accelerator == "cpu":
        trainer = build({"_target_": "lightning.pytorch.Trainer", **cfg.trainer, "logger": False}, "trainer")
        assert trainer.precision == runs


def test_a_folder_that_is_not_given_says_what_it_must_hold(configs: dict[str, tuple[str, DictConfig]]) -> None:
    cfg = changed(configs["train, ade20k"][1], "data.root", "???")
    with pytest.raises(ValueError, match=r"data\.root is required: .*data\.download=true fetches ADEChallengeData2016"):
        build_data(cfg)
