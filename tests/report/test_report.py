"""The report holds all that a run left, and stands alone."""

import base64
import html.parser
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import fsspec
import numpy as np
import pytest
from etils import epath
from ml_collections import ConfigDict
from PIL import Image

from simple_diffusion.core import files, images
from simple_diffusion.modes import report
from simple_diffusion.report import html_report, picture_sections, run_files
from tests.core.test_files import Memory
from tests.report import report_run

VOID = {"meta", "link", "img", "br", "input", "wbr"}


def made(folder):
    return report.run(ConfigDict(), str(folder)).path.read_text()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return report_run.make(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def page(folder):
    return made(folder)


class Reader(html.parser.HTMLParser):
    """Reads a page, strictly: every element is closed by its own tag."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words, self.pictures = [], [], [], {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"{tag} closes another element"

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))


def decoded(page):
    sources = [a["src"] for tag, a in Reader(page).tags if tag == "img"]
    for source in sources:
        kind, data = source.split(",", 1)
        assert kind == "data:image/png;base64"
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            yield np.asarray(image)


def plots(page):
    return [
        ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page, re.S)
    ]


def anchors(page):
    return [a["id"] for tag, a in Reader(page).tags if tag == "section"]


def test_every_picture_is_inside_pixel_for_pixel(page):
    found = {tuple(pixels[30, 60]): pixels for pixels in decoded(page)}
    assert len(found) == len(report_run.PICTURES)
    for name, colour in report_run.COLOURS.items():
        np.testing.assert_array_equal(found[colour], report_run.picture(name))


def test_every_plot_can_be_read_and_their_names_do_not_meet(page):
    found = plots(page)
    # Two metrics and the loss over time, four curves, two by logsnr, two of the sweep.
    assert len(found) == 3 + 4 + 2 + 2
    ids = [e.get("id") for svg in found for e in svg.iter() if e.get("id")]
    ids += anchors(page)
    assert len(ids) == len(set(ids))
    for svg in found:
        own = {e.get("id") for e in svg.iter()}
        text = ElementTree.tostring(svg, encoding="unicode")
        used = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text)
        assert used and {a or b for a, b in used} <= own


def test_nothing_of_the_page_is_elsewhere(page):
    addresses = set(re.findall(r"https?:[^\"' ]+", page))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "default-src 'none'" in page
    for tag, attributes in Reader(page).tags:
        assert tag not in ("iframe", "object", "embed", "base")
        assert not {"srcset", "action", "onclick"} & attributes.keys()
        for key in ("src", "href", "xlink:href"):
            assert attributes.get(key, "#").startswith(("#", "data:"))
    assert "@import" not in page and 'src="//' not in page


def test_all_sections_are_there_in_order_and_listed(page):
    expected = ["summary", "samples", "metrics", "evaluations", "training", "logsnr"]
    expected += ["over-time", "other-sizes", "classes", "neighbours", "sweep"]
    expected += ["restorations", "comparison"]
    assert anchors(page) == expected
    links = [a["href"] for tag, a in Reader(page).tags if tag == "a"]
    assert links == [f"#{name}" for name in expected]
    assert "Not in this report" not in page


@pytest.mark.parametrize(
    "words",
    [
        "parameters 17",  # 3x4 and 5
        "steps done 300 of 300",
        "schedule.name = shifted_cosine",
        "fd_scenes_2k 0.5 ↓ ± 0.0123 2,000 4,000",
        "accuracy_scenes_2k 0.75 ↑ 0.71 to 0.79 2,000",
        "guidance 2.5, logsnr -∞ to 4",
        "reference scenes, <train>",
        "scenes, weights 0123456789ab, resize bilinear",
        "diffusion.prediction: v -> eps",
        "above -3 0.2",
        "step 100",
        "Samples at 16x32",
        "<b>cat & dog</b>",
        "Means: psnr 23.46, ssim none",
        "samples folder:/a/<b>",
        "recall_<b> needs more images",
        "in place of the model's samples",
    ],
)
def test_the_page_shows_the_main_facts(page, words):
    assert words in Reader(page).text


def test_the_best_of_a_sweep_is_marked(page):
    best = re.findall(r'<td class="[^"]*best"><span>([^<]*)</span>', page)
    assert best == ["0.8", "0.5", "0.3"]
    assert (
        "77" not in Reader(page).text
    )  # guidance of the last point is not that of all


def test_names_from_files_are_text_and_never_html(page):
    assert not {"b", "train"} & {tag for tag, _ in Reader(page).tags}
    assert page.count("&lt;b&gt;cat &amp; dog&lt;/b&gt;") == 2  # its name, and its alt


def test_missing_sections_are_listed_with_the_mode_that_adds_them(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(report_run.CONFIG))
    page = made(tmp_path)
    assert anchors(page) == ["summary"]
    text = Reader(page).text
    assert "Not in this report" in text
    for command in ("train", "evaluate", "sweep", "restore"):
        assert f"--mode {command}" in text
    images.write_png(tmp_path / "samples.png", report_run.picture("samples.png"))
    assert anchors(made(tmp_path)) == ["summary", "samples"]


def test_conditions_stand_beside_real_images_and_baselines(tmp_path):
    record = report_run.record(300, 0.5)
    record["metrics"] |= {"accuracy_colour": 0.8125, "hole_psnr": 23.75}
    record["intervals"] |= {"accuracy_colour": [0.75, 0.875]}
    record["baselines"] = {
        "accuracy_colour": {"real images": 0.96875, "most frequent value": 0.25},
        "hole_psnr": {"nearest known pixel": 17.25},
    }
    (tmp_path / "metrics.json").write_text(json.dumps(record))
    text = Reader(made(tmp_path)).text
    table = text[text.index("Conditions") :]
    header = "metric samples real images most frequent value nearest known pixel"
    for words in (
        header,
        "accuracy_colour ↑ 0.8125 [0.75, 0.875] 0.9688 0.25",
        "hole_psnr ↑ 23.75 17.25",
    ):
        assert words in table.replace(" _ ", "_")


def test_a_model_without_conditions_has_no_table_of_them(page):
    assert "Whether samples show what they were asked for" not in Reader(page).text


def test_one_evaluation_alone_is_no_curve(tmp_path):
    report_run.make(tmp_path)
    line = json.dumps(report_run.record(100, 0.7))
    (tmp_path / "evaluations.jsonl").write_text(line + "\n")
    assert "evaluations" not in anchors(made(tmp_path))


def test_evaluations_with_other_settings_are_other_lines(tmp_path):
    report_run.make(tmp_path)
    records = [report_run.record(step, 1.0) for step in (100, 200)]
    records += [r | {"guidance": 4.0} for r in records]
    lines = "".join(json.dumps(r) + "\n" for r in records)
    (tmp_path / "evaluations.jsonl").write_text(lines)
    page = made(tmp_path)
    place = page.index('id="evaluations"')
    plot = ElementTree.fromstring(
        re.search(r"<svg.*?</svg>", page[place:], re.S).group()
    )
    assert "held_out_loss" in plot.get("aria-label")


@pytest.mark.parametrize(
    "name, text, note",
    [
        ("metrics.json", '{"metrics": {', "metrics.json is damaged"),
        ("metrics.json", "[1]", "metrics.json is not a dict"),
        ("metrics.json", '{"metrics": 3}', "metrics: files are not as expected"),
        ("config.json", "", "config.json is damaged"),
        ("classes.json", "\x00", "classes.json is damaged"),
        ("sweep/sweep.json", '{"points": [{}]}', "sweeps: files are not as expected"),
        ("metrics.jsonl", '{"step": 10, "loss": 1.0}\n{"step": 20, "lo', "1 damaged"),
        ("evaluations.jsonl", "3\n", "evaluations.jsonl: 1 damaged line(s)"),
        ("restored/inpaint/restorations.json", "{", "restorations.json is damaged"),
    ],
)
@pytest.mark.slow
def test_damaged_records_are_skipped_and_named(tmp_path, capsys, name, text, note):
    report_run.make(tmp_path)
    (tmp_path / name).write_text(text)
    page = made(tmp_path)
    assert anchors(page)[:3] == ["notes", "summary", "samples"]
    assert note in Reader(page).text
    assert capsys.readouterr().out.count(note) == 1


@pytest.mark.parametrize("keep", [0, 20, 60, -40])
@pytest.mark.slow
def test_damaged_pictures_are_passed_over_and_named(tmp_path, capsys, keep):
    report_run.make(tmp_path)
    path = tmp_path / "samples.png"
    path.write_bytes(path.read_bytes()[:keep])
    page = made(tmp_path)
    assert "samples.png cannot be read as a PNG" in Reader(page).text
    assert "samples.png cannot be read as a PNG" in capsys.readouterr().out
    assert len(list(decoded(page))) == len(report_run.PICTURES) - 1


def test_values_that_are_not_finite_leave_a_gap_and_a_word(tmp_path):
    report_run.make(tmp_path)
    lines = [report_run.training_line(step) for step in range(10, 101, 10)]
    lines[3]["loss"] = float("nan")
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    page = made(tmp_path)
    assert "1 value(s) that are not finite are hidden" in page
    assert "notes" not in anchors(page)


def test_a_long_training_stays_a_small_file(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    lines = [json.dumps(report_run.training_line(step)) for step in range(1, 30_001)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    page = made(tmp_path)
    assert len(page) < 500_000
    assert "Each point is the mean of 100 log lines" in page


def test_large_pictures_are_reduced_and_say_so(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    large = np.zeros((100, run_files.MAX_PIXELS + 1000, 3), np.uint8)
    large[:, : large.shape[1] // 2] = (255, 0, 0)
    images.write_png(tmp_path / "samples.png", large)
    page = made(tmp_path)
    (shown,) = decoded(page)
    assert shown.shape == (50, 1700, 3)
    assert tuple(shown[25, 100]) == (255, 0, 0) and not shown[25, -100].any()
    assert "reduced 2 times from 3400x100 pixels" in page


def test_of_many_grids_some_are_shown_with_the_first_and_the_last(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    for step in range(100):
        pixels = np.full((8, 8, 3), step, np.uint8)
        images.write_png(tmp_path / "grids" / f"step_{step:07d}.png", pixels)
    page = made(tmp_path)
    steps = [int(pixels[0, 0, 0]) for pixels in decoded(page)]
    assert steps[0] == 0 and steps[-1] == 99 and len(steps) == 12
    assert np.ptp(np.diff(steps)) <= 1  # evenly
    assert "12 of 100 grids" in page


@pytest.mark.parametrize("there", [None, "notes.txt"])
def test_a_folder_without_a_run_is_an_error_and_stays_as_it_was(tmp_path, there):
    folder = tmp_path / "run"
    if there:
        folder.mkdir()
        (folder / there).write_text("nothing")
    with pytest.raises(ValueError, match="holds nothing to report .* --mode train"):
        report.run(ConfigDict(), str(folder))
    assert not (folder / html_report.REPORT).exists()
    assert folder.exists() == bool(there)


def test_a_new_report_replaces_the_old_one(folder, page):
    again = made(folder)
    time = r"report, [-0-9: ]+ UTC"
    assert re.sub(time, "", again) == re.sub(time, "", page)
    assert not list(folder.glob(".*"))


def test_a_comparison_of_folders_is_a_report_without_a_training(tmp_path):
    record = report_run.record(0, 0.9) | {"step": None}
    (tmp_path / "comparison.json").write_text(json.dumps(record))
    assert anchors(made(tmp_path)) == ["summary", "comparison"]


def test_only_the_first_process_writes(folder, monkeypatch, capsys, tmp_path):
    report_run.make(tmp_path)
    monkeypatch.setattr("jax.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("jax.process_index", lambda: 1)
    assert not report.run(ConfigDict(), str(tmp_path)).path.exists()
    assert capsys.readouterr().out == ""


def test_a_run_in_a_bucket_has_its_report_there(monkeypatch):
    for name in ("gs", "gcs"):
        fsspec.register_implementation(name, Memory, clobber=True)
    monkeypatch.setattr("etils.epath.gpath._is_tf_installed", lambda: False)
    monkeypatch.setattr(files, "_installed", lambda module: True)
    Memory.store.clear()
    bucket = files.resolve_folder("gs://bucket/run")
    (bucket / "config.json").write_text(json.dumps(report_run.CONFIG))
    for name in ("samples.png", "grids/step_0000100.png", "evaluation/neighbours.png"):
        images.write_png(bucket / name, report_run.picture(name))
    page = report.run(ConfigDict(), "gs://bucket/run").path.read_text()
    assert anchors(page) == ["summary", "samples", "over-time", "neighbours"]
    assert len(list(decoded(page))) == 3


@pytest.mark.slow
def test_the_command_starts_no_device_and_loads_no_tensorflow(folder):
    code = (
        "import sys; from simple_diffusion.modes import report\n"
        f"report.run(None, {str(folder)!r})\n"
        "import jax._src.xla_bridge as bridge\n"
        "assert not bridge.backends_are_initialized()\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    root = Path(__file__).parents[2]
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_grid_of_the_last_samples_is_shown(tmp_path):
    for name in ("samples", "samples_2", "samples_10", "samples_48x48"):
        images.write_png(tmp_path / name / "grid.png", np.zeros((4, 4, 3), np.uint8))
    files = run_files.RunFiles(epath.Path(tmp_path))
    assert picture_sections._newest_grid(files) == "samples_10/grid.png"
    empty = run_files.RunFiles(epath.Path(tmp_path / "none"))
    assert picture_sections._newest_grid(empty) == "samples/grid.png"
