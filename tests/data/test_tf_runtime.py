import subprocess
import sys
import types

from PIL import Image

from simple_diffusion.data import tf_runtime


def test_tensorflow_is_kept_off_every_accelerator(monkeypatch):
    visible = {"CPU": ["cpu:0"], "GPU": ["gpu:0"], "TPU": ["tpu:0"]}
    config = types.SimpleNamespace(
        set_visible_devices=lambda devices, kind: visible.update({kind: devices})
    )
    fake = types.SimpleNamespace(config=config)
    monkeypatch.setitem(sys.modules, "tensorflow", fake)
    assert tf_runtime.tensorflow.__wrapped__() is fake
    assert visible == {"CPU": ["cpu:0"], "GPU": [], "TPU": []}


def test_opening_and_reading_a_folder_does_not_import_tensorflow(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "1.png")
    script = f"""
import sys
from simple_diffusion.data import feed, pipeline
from simple_diffusion.data.sources import catalogue
catalogue.open_source("folder:{tmp_path}").read(0, 8)
assert not any(name.startswith("tensorflow") for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True)
