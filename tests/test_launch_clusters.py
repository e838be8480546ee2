"""The scripts for SLURM and GKE, and what holds for all scripts."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.stand_ins import LAUNCH, Site
from tests.test_launch import ROOT, Clone

MAIN = ["--config", "a b.py", "--workdir", "gs://b/r"]
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])


@pytest.fixture
def site(tmp_path) -> Site:
    return Site(tmp_path)


def test_every_script_passes_shellcheck():
    program = Path(sys.executable).parent / "shellcheck"
    assert len(SCRIPTS) >= 9
    command = [program, "--external-sources", *SCRIPTS, ROOT / ".ci/run"]
    check = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert check.returncode == 0, check.stdout


TASKS = {"SLURM_NTASKS": "16", "SLURM_JOB_NUM_NODES": "2", "SLURM_GPUS_ON_NODE": "8"}
REQUEUE = ["scontrol", "requeue", "7"]


@pytest.fixture
def cluster(tmp_path, site) -> Site:
    """A clone that is set up for GPUs and stands for the folder of submission."""
    clone = Clone(tmp_path)
    clone.run("setup.sh", ACCELERATOR="cuda")
    site.env |= {"SLURM_SUBMIT_DIR": str(clone.folder), "SLURM_JOB_ID": "7", **TASKS}
    return site


def test_a_slurm_job_starts_one_task_for_each_gpu(cluster):
    result = cluster.run("slurm.sbatch", "--config", "a b.py", SLURM_CPUS_PER_TASK="12")
    assert result.returncode == 0, result.stderr
    (srun,) = cluster.calls()
    assert srun[0] == "srun" and "--cpus-per-task=12" in srun
    assert "--output=runs/slurm/7/task-%t.log" in srun
    # JAX picks GPU i for task i, and must see them all for that.
    assert "--gpu-bind=none" in srun and "--kill-on-bad-exit=0" in srun
    python = [".venv/bin/python", "-m", "simple_diffusion.main", "--distributed"]
    assert srun[-6:] == [*python, "--config", "a b.py"]


@pytest.mark.parametrize("code", [0, 1, 2, 75, 137, 143])
def test_a_slurm_job_is_queued_again_only_where_that_can_help(cluster, code):
    cluster.answer("srun", f"{code} ")
    assert cluster.run("slurm.sbatch").returncode == code
    assert (REQUEUE in cluster.calls()) == (code in (75, 137, 143))


def test_a_slurm_job_that_fails_at_once_again_and_again_is_given_up(cluster):
    cluster.answer("srun", "75 ")
    jobs = [cluster.run("slurm.sbatch", MAX_FAILURES="2") for _ in range(3)]
    assert cluster.calls().count(REQUEUE) == 2
    assert "3 times in a row" in jobs[-1].stderr


@pytest.mark.parametrize("signal", ["USR1", "TERM"])
def test_a_slurm_job_that_is_asked_to_end_is_not_queued_again(cluster, signal):
    cluster.answer("srun", "143 hang")
    job = subprocess.Popen(
        [LAUNCH / "slurm.sbatch"], env=cluster.env, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 10
    while not cluster.calls() and time.monotonic() < deadline:
        time.sleep(0.02)
    subprocess.run(["kill", f"-{signal}", str(job.pid)], check=True)
    if signal == "TERM":  # SLURM sends it to the tasks as well
        (cluster.folder / "cancelled").touch()
    assert job.wait(timeout=30) == 143
    job.communicate()
    tools = [call[0] for call in cluster.calls()]
    assert tools == (["srun", "scancel"] if signal == "USR1" else ["srun"])


def test_a_slurm_job_refuses_a_wrong_place_shape_or_environment(cluster, tmp_path):
    refused = cluster.run("slurm.sbatch", SLURM_SUBMIT_DIR=str(tmp_path))
    assert "call sbatch in the repository's root" in refused.stderr
    refused = cluster.run("slurm.sbatch", SLURM_GPUS_ON_NODE="4")
    assert "--ntasks-per-node must equal --gpus-per-node" in refused.stderr
    refused = cluster.run("slurm.sbatch", ACCELERATOR="cpu")
    assert "first run ACCELERATOR=cpu launch/setup.sh" in refused.stderr
    assert cluster.calls() == []


def test_a_dry_run_of_a_slurm_job_shows_its_commands_and_calls_nothing(cluster):
    result = cluster.run("slurm.sbatch", "--config", "a", DRY_RUN="1")
    assert result.returncode == 0 and cluster.calls() == []
    assert "+ srun --kill-on-bad-exit=0" in result.stderr
    assert "+ scontrol requeue 7" in result.stderr


def test_a_slurm_job_names_no_account_and_is_safe_to_queue_again():
    lines = (LAUNCH / "slurm.sbatch").read_text().splitlines()
    options = {line[8:].split("=")[0] for line in lines if line.startswith("#SBATCH ")}
    # The time before its limit is for the tasks ("B:" would be the shell alone).
    assert (
        "#SBATCH --signal=TERM@120" in lines and "#SBATCH --open-mode=append" in lines
    )
    expected = {"--job-name", "--output", "--open-mode", "--requeue", "--signal"}
    assert options == expected


POD = [
    *("--name=n", "--context=c", "--image=host/i:1", "--accelerator=tpu-v6e-slice"),
    *("--topology=4x4", "--chips-per-host=4", "--slices=2", "--env=A=b c"),
]
KUBECTL = ["kubectl", "--context=c", "--namespace=default"]


def manifest(site: Site, *flags: str) -> dict:
    result = site.run("gke.sh", "run", "--yes", *POD, "--", *flags)
    assert result.returncode == 0, result.stderr
    assert site.calls() == [[*KUBECTL, "create", "--filename=-"]]
    text = (site.folder / "manifest").read_text()
    assert text == result.stdout and "PLACEHOLDER" not in text
    return yaml.safe_load(text)


def test_the_manifest_asks_for_whole_slices_and_carries_the_flags_unchanged(site):
    flags = ["--workdir=gs://b/r", '--config.data.source=folder:a "b" \\c & {d}']
    job = manifest(site, *flags)
    assert (job["kind"], job["metadata"]["name"]) == ("JobSet", "n")
    (slices,) = job["spec"]["replicatedJobs"]
    spec = slices["template"]["spec"]
    assert slices["replicas"] == 2 and spec["completionMode"] == "Indexed"
    assert spec["parallelism"] == spec["completions"] == 16 // 4
    pod = spec["template"]["spec"]
    assert set(pod["nodeSelector"].values()) == {"tpu-v6e-slice", "4x4"}
    (container,) = pod["containers"]
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    assert container["image"] == "host/i:1"
    assert container["args"] == ["--distributed", *flags]
    assert container["env"] == [{"name": "A", "value": "b c"}]


def test_the_manifest_starts_again_what_a_restart_mends_and_nothing_else(site):
    spec = manifest(site, *MAIN)["spec"]
    policy = spec["failurePolicy"]
    assert policy["maxRestarts"] == 50
    (rule,) = policy["rules"]
    assert rule["action"] == "FailJobSet"
    assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
    job = spec["replicatedJobs"][0]["template"]["spec"]
    (exits,) = job["podFailurePolicy"]["rules"]
    assert exits["action"] == "FailJob"
    codes = exits["onExitCodes"]
    assert codes["operator"] == "In" and 1 in codes["values"]
    assert not {0, 75, 137, 143} & set(codes["values"])
    pod = job["template"]["spec"]
    # Kubernetes allows a podFailurePolicy with this restart policy only.
    assert job["backoffLimit"] == 0 and pod["restartPolicy"] == "Never"
    assert codes["containerName"] == pod["containers"][0]["name"]
    assert pod["terminationGracePeriodSeconds"] >= 120


def test_every_command_for_gke_names_its_cluster_and_its_run(site):
    name = ["--name=n", "--context=c", "--yes"]
    actions = ["status", "logs", "stop", "resume", "delete"]
    for action in actions:
        assert site.run("gke.sh", action, *name).returncode == 0
        count = len(site.calls())
        assert site.run("gke.sh", action, *name, "--dry-run").returncode == 0
        assert len(site.calls()) == count
    for call in site.calls():
        assert call[:3] == KUBECTL and re.search(r"\bn\b", " ".join(call[3:]))
    assert [call[3] for call in site.calls()] == [
        *("get", "get", "logs", "patch", "patch", "delete")
    ]


@pytest.mark.parametrize(
    "drop, add, complaint",
    [
        ("--name", [], "--name=... is missing"),
        ("--context", [], "--context=... is missing"),
        ("--image", [], "--image=... is missing"),
        ("--topology", [], "--topology=... is missing"),
        ("--topology", ["--topology=4"], "--topology=4 must look like 4x4"),
        ("--slices", ["--slices=two"], "must be whole numbers"),
        ("--chips", ["--chips-per-host=3"], "must divide the 16 chips"),
        ("--env", ["--", "--workdir=runs/a"], "must be gs://BUCKET/PATH"),
        ("--env", ["--", *MAIN], "nothing was done; add --yes"),
        ("--env", ["--verbose"], "unknown flag --verbose"),
    ],
)
def test_gke_names_what_is_missing_or_wrong_and_calls_nothing(
    site, drop, add, complaint
):
    flags = [flag for flag in POD if not flag.startswith(drop)]
    rest = [] if "--" in add else ["--", *MAIN]
    result = site.run("gke.sh", "run", *flags, *add, *rest)
    assert result.returncode == 2 and complaint in result.stderr
    assert site.calls() == []


def test_the_image_holds_what_its_first_steps_read():
    lines = (LAUNCH / "Dockerfile").read_text().splitlines()
    copied = [
        f for line in lines if line.startswith("COPY") for f in line.split()[1:-1]
    ]
    assert all((ROOT / file).exists() for file in copied)
    # Its entry point must not try to install at the start of each pod.
    assert any(line.startswith("ENV") and "INSTALL=no" in line for line in lines)


def test_the_gpu_flags_that_the_table_names_exist_in_this_jaxlib():
    table = re.findall(
        r"`(--xla_gpu_[^` ]+=[^` ]+)`", (LAUNCH / "README.md").read_text()
    )
    assert len(table) >= 5

    def start(flags: list[str]) -> int:
        env = {**os.environ, "XLA_FLAGS": " ".join(flags), "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, "-c", "import jax; jax.devices()"]
        return subprocess.run(command, env=env, capture_output=True).returncode

    assert start(table) == 0
    assert start([*table, "--xla_gpu_enable_latency_hiding_schedule=true"]) != 0
