"""Every shell command of the documentation is one that its program accepts."""

import pytest

from tests.docs import check, pages

COMMANDS = pages.commands()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with the configs of all runs that the documentation trains."""
    folder = tmp_path_factory.mktemp("documentation")
    check.create_runs(COMMANDS, folder)
    return folder


def test_commands_are_found_in_every_kind_of_page():
    found = {command.page for command in COMMANDS}
    assert {"README.md", "launch/README.md", "examples/README.md"} <= found
    assert len(COMMANDS) > 60


@pytest.mark.parametrize("page", sorted({command.page for command in COMMANDS}))
def test_commands_of_a_page_are_accepted(page, runs, monkeypatch):
    monkeypatch.chdir(runs)
    wrong = []
    for command in COMMANDS:
        if command.page == page:
            try:
                check.check(command, monkeypatch)
            except Exception as error:
                wrong.append(f"{command}\n    {type(error).__name__}: {error}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("launch/nowhere.sh", "launch/nowhere.sh"),
        ("launch/tpu_vm.sh create --sport", "--sport"),
        ("launch/gke.sh walk --name=a", "walk"),
        ("launch/local.sh --config quickstat --workdir runs/a", "quickstat"),
        (
            "launch/local.sh --config digits --workdir runs/a --config.data.a=1",
            "data.a",
        ),
        (
            "launch/local.sh --config digits --workdir a --config.train.seed=b",
            "train.seed",
        ),
        ("launch/local.sh --mode simple --workdir runs/a", "exit code 2"),
        ("launch/local.sh --mode sample --workdir runs/nowhere", "runs/nowhere"),
        ("sbatch launch/slurm.sbatch --config digits --worker a", "exit code 2"),
        (".venv/bin/python -m simple_diffusion.modes.nothing", "modes.nothing"),
        ("pip install '.[everything]'", "everything"),
        ("teleport home", "teleport"),
    ],
)
def test_a_wrong_command_is_noticed(line, why, runs, monkeypatch):
    monkeypatch.chdir(runs)
    (command,) = pages.split(pages.Block("page.md", 1, "sh", line))
    with pytest.raises((AssertionError, ValueError), match=why):
        check.check(command, monkeypatch)


def test_blocks_are_split_as_a_shell_would():
    text = """A=1 one --x="(1,2)" 'two words' \\
      three   # a comment
    for f in *; do four "$f" && five; done
    """
    commands = list(pages.split(pages.Block("page.md", 1, "sh", text)))
    assert [command.words for command in commands] == [
        ["one", "--x=(1,2)", "two words", "three"],
        ["four", "$f"],
        ["five"],
    ]
    assert commands[0].variables == {"A": "1"}
