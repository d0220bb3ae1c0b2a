"""Overrides that name nothing are refused, options are read as MONAI reads them, our errors are found."""

from __future__ import annotations

import json
import sys

import pytest
import scripts.networks  # noqa: F401 (registers BioAtt)
from scripts import workflow
from scripts.errors import BioAttError
from scripts.workflow import begin, check_overrides, check_prior_fits, check_training, open_workflow


@pytest.fixture
def config(tmp_path):
    file = tmp_path / "c.json"
    file.write_text(
        json.dumps({"prior": "compact", "network_def": {"_target_": "BioAtt"}, "train": {"handlers": [{"a": 1}]}})
    )
    return file


@pytest.mark.parametrize(
    "key",
    ["prior", "network_def#channels", "network_def::channels", "network_def#attention", "train#handlers#0#a", "train"],
)
def test_keys_that_the_config_knows_are_welcome(config, key):
    check_overrides([key], [config])


@pytest.mark.parametrize(
    "key", ["priors", "train#handler", "train#handlers#1", "prior#x", "Prior", "network_def#chanels", "network_def#a#b"]
)
def test_keys_that_no_config_knows_are_refused(config, key):
    with pytest.raises(BioAttError, match=f"unknown config override --{key}"):
        check_overrides([key], [config])


def test_a_resembling_key_is_proposed(config):
    with pytest.raises(BioAttError, match="did you mean prior"):
        check_overrides(["priors"], [config])


def test_any_of_several_configs_may_know_the_key(config, tmp_path):
    other = tmp_path / "d.json"
    other.write_text('{"weights": ""}')
    check_overrides(["weights", "prior"], [config, other])


@pytest.mark.parametrize("key", ["train#batch", "train::batch"])
def test_a_key_that_a_config_sets_within_another_may_be_set_again(config, tmp_path, key):
    other = tmp_path / "d.json"
    other.write_text('{"train#batch": 3}')
    check_overrides([key], [config, other])
    with pytest.raises(BioAttError, match=f"unknown config override --{key}"):
        check_overrides([key], [config])


def set_argv(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["/any/monai/bundle/__main__.py", "run", "inference", *words])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)


@pytest.mark.parametrize("form", [["--priors", "uniform"], ["--priors=uniform"], ["--prior-s", "uniform"]])
def test_begin_reads_the_command_line_of_monai_bundle(config, monkeypatch, form):
    set_argv(monkeypatch, "--config_file", str(config), "--bundle_root", "x", *form)
    with pytest.raises(BioAttError, match="--bundle_root|--prior"):
        begin()
    set_argv(monkeypatch, f"--config_file={config}", "--prior", "uniform", "--meta_file", "m")
    begin()


def test_begin_reads_lists_of_configs_and_args_files(config, monkeypatch, tmp_path):
    arguments = tmp_path / "args.json"
    arguments.write_text(json.dumps({"config_file": [str(config)], "priors": "uniform"}))
    set_argv(monkeypatch, "--args_file", str(arguments))
    with pytest.raises(BioAttError, match="--priors"):
        begin()
    for form in (f"['{config}']", f"{config},{config}"):
        set_argv(monkeypatch, "--config-file", form, "--prior", "uniform")
        begin()


@pytest.mark.parametrize("words", [["--train", "false"], ["--train=yes"], ["--train", "0"]])
def test_begin_refuses_a_word_where_a_switch_is_wanted(monkeypatch, tmp_path, words):
    config = tmp_path / "c.json"
    config.write_text('{"train": true, "prior": ""}')
    set_argv(monkeypatch, "--config_file", str(config), *words)
    with pytest.raises(BioAttError, match=f"--train {words[-1].split('=')[-1]}: expected True or False"):
        begin()
    for right in (["--train", "False"], ["--train=True"], ["--train"], ["--train", "--prior", "false"]):
        set_argv(monkeypatch, "--config_file", str(config), *right)
        begin()


def test_begin_leaves_other_programs_alone(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["server", "--anything", "1"])
    hook = sys.excepthook
    begin()
    assert sys.excepthook is hook


def test_the_hook_prints_one_line_and_ends_with_2(capsys):
    try:
        try:
            raise BioAttError("what, where, remedy")
        except BioAttError as cause:
            raise RuntimeError("wrapped") from cause
    except RuntimeError as error:
        with pytest.raises(SystemExit) as end:
            workflow._one_line_excepthook(type(error), error, error.__traceback__)
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: what, where, remedy\n"


def test_the_hook_shows_other_errors_whole(capsys):
    try:
        raise ZeroDivisionError("a bug")
    except ZeroDivisionError as error:
        workflow._one_line_excepthook(type(error), error, error.__traceback__)
    assert "Traceback" in capsys.readouterr().err


def test_a_prior_of_another_number_of_descriptors_is_refused():
    from scripts.networks import BioAtt
    from scripts.priors import make_prior

    check_prior_fits(BioAtt(channels=4), make_prior("uniform"))
    with pytest.raises(BioAttError, match="maps for 21 descriptors, the prior uniform has 11"):
        check_prior_fits(BioAtt(channels=4, num_descriptors=21), make_prior("uniform"))


def test_finished_weights_are_not_trained_over(tmp_path):
    check_training(tmp_path)
    (tmp_path / "model.pt").write_text("weeks of work")
    with pytest.raises(BioAttError, match="model.pt holds the weights of a finished training"):
        check_training(tmp_path)


@pytest.mark.parametrize("word", ["$print('taken')", "@prior", "%inference.json", "$a\\@b", "$", "it's $x"])
def test_words_of_users_are_never_code(word, capsys):
    overrides = dict.fromkeys(("dataset_dir", "output_dir", "series", "series_description", "prior", "weights"), word)
    parser = open_workflow("inference", ["inference.json"], overrides).parser
    assert {key: parser.get_parsed_content(key) for key in overrides} == overrides
    assert "taken" not in capsys.readouterr().out
