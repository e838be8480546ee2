"""The words and flags of the command line."""

import dataclasses

import pytest

from simple_diffusion import command_line

WORKDIR = ["--workdir", "runs/x"]


def parse(*arguments):
    return command_line.parse([*arguments, *WORKDIR])


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "quickstart"],
        ["--mode", "train", "--config", "quickstart"],
        ["--mode=train", "--config=quickstart"],
        ["-mode=train", "-config", "quickstart"],
        ["--config", "quickstart"],
        ["train", "--config=quickstart"],
        ["train", "quickstart", "--mode=train", "--config=quickstart"],
    ],
)
def test_words_and_flags_mean_the_same(arguments):
    command = parse(*arguments)
    assert (command.mode, command.recipe) == ("train", "quickstart")
    assert command.workdir == "runs/x"


def test_words_may_stand_among_flags():
    arguments = ["sample", *WORKDIR, "digits", "--config.sample.count", "4"]
    command = command_line.parse(arguments)
    assert (command.mode, command.recipe) == ("sample", "digits")
    assert command.overrides == (("sample.count", "4"),)


def test_a_mode_needs_no_recipe():
    assert parse("sample").recipe is None
    assert parse("--mode=sample").recipe is None


@pytest.mark.parametrize(
    ("arguments", "overrides"),
    [
        (["--config.a.b=3"], [("a.b", "3")]),
        (["-config.a.b=3"], [("a.b", "3")]),
        (["--config.a.b", "3"], [("a.b", "3")]),
        (["--config.a.b", "-3"], [("a.b", "-3")]),
        (["--config.a.b=x=y"], [("a.b", "x=y")]),
        (["--config.a.b="], [("a.b", "")]),
        (["--config.a.b", "--config.c=1"], [("a.b", None), ("c", "1")]),
        (["--noconfig.a.b"], [("a.b", "false")]),
        (["--config.a=1", "--config.a=2"], [("a", "1"), ("a", "2")]),
    ],
)
def test_overrides_are_split_from_the_other_flags(arguments, overrides):
    assert parse(*arguments).overrides == tuple(overrides)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], False),
        (["--distributed"], True),
        (["--distributed=true"], True),
        (["--distributed=false"], False),
        (["--nodistributed"], False),
    ],
)
def test_a_cluster_is_joined_if_asked_for(flags, expected):
    assert parse(*flags).distributed is expected
    given = [*flags, "--coordinator=a:1", "--process_count=2", "--process_id", "1"]
    command = parse(*given)
    place = command.coordinator, command.process_count, command.process_id
    assert place == ("a:1", 2, 1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sample", "--mode=train"], "sample and --mode=train contradict each other"),
        (["train", "digits", "--config=quickstart"], "digits and --config=quickstart"),
        (["tran"], "tran is no mode; .* did you mean train?"),
        (["quickstart"], "quickstart is no mode; .* a recipe comes second"),
        (["train", "digits", "now", "please"], "unexpected words: now please"),
        (["prepare"], "python -m simple_diffusion.modes.prepare --help"),
        (["--mode=draw"], "argument --mode: invalid choice: 'draw'"),
        (["--wrkdir=x"], "unknown flag --wrkdir=x; did you mean --workdir?"),
        (["--xyz"], "unknown flag --xyz; flags are --config, --workdir"),
        (["--train.seed=3"], "--config.: --config.train.seed=3"),
        (["--process_id=one"], "argument --process_id: invalid int value: 'one'"),
    ],
)
def test_a_wrong_command_is_one_line_and_code_2(arguments, said, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(*arguments)
    assert ended.value.code == 2
    output, errors = capsys.readouterr()
    assert output == "" and len(errors.splitlines()) == 1
    assert errors.startswith("error: ")
    for part in said.split(" .* "):
        assert part in errors


def test_a_workdir_is_asked_for(capsys):
    with pytest.raises(SystemExit) as ended:
        command_line.parse(["train", "quickstart"])
    assert ended.value.code == 2
    assert "--workdir=FOLDER is missing" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--help", "-h", "-help"])
def test_help_fits_a_screen_and_names_every_mode_and_flag(flag, capsys):
    with pytest.raises(SystemExit) as ended:
        command_line.parse([flag])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) < 50
    for word in (*command_line.MODES, "prepare", "convert"):
        assert word in text
    for field in dataclasses.fields(command_line.Command):
        if field.name not in ("recipe", "overrides"):
            assert f"--{field.name}" in text


def test_the_version_is_that_of_the_package(capsys):
    import simple_diffusion

    with pytest.raises(SystemExit) as ended:
        command_line.parse(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.strip() == simple_diffusion.__version__
