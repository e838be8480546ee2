"""Stand-ins for the tools of clusters, which note their calls and answer as told."""

import os
import subprocess
from pathlib import Path

from tests.test_launch import ROOT

LAUNCH = ROOT / "launch"
# What a revision and a clean tree look like; what else git is asked is only noted.
GIT = "*rev-parse*) echo 0123abc; exit ;; *'status --porcelain') exit ;;"
# Notes its call, then answers with the next line "CODE TEXT" of the file for its kind,
# and with the last line for ever. The text "hang" waits ten seconds for scancel.
STAND_IN = r"""#!/usr/bin/env bash
case "$*" in
  GIT
  *"queued-resources describe"*) answers=requests ;;
  *"tpu-vm describe"*) answers=machines ;;
  *"status run"*) answers=runs ;;
  *"tpu-vm scp"*) answers=copies ;;
  *"launch/setup.sh") answers=setups ;;
  *) answers=${0##*/} ;;
esac
{ printf '%s\x1f' "${0##*/}" "$@"; printf '\x1e'; } >>calls
[ "${0##*/}" != scancel ] || touch cancelled
[ "${0##*/}" != kubectl ] || cat >manifest
read -r code text 2>/dev/null <"$answers" || exit 0
[ "$(wc -l <"$answers")" -le 1 ] || sed -i 1d "$answers"
for ((i = 0; i < 500; i++)); do
  [ "$text" = hang ] && [ ! -e cancelled ] && sleep 0.02 || break
done
echo -e "$text"
exit "$code"
""".replace("GIT", GIT)


class Site:
    """A place with stand-ins for the tools of clusters, and the calls they got."""

    def __init__(self, folder: Path):
        self.folder = folder / "site"
        self.folder.mkdir()
        bin = folder / "bin"
        bin.mkdir()
        for tool in ("gcloud", "git", "kubectl", "scancel", "scontrol", "srun"):
            # They note and answer in one folder, wherever they are called.
            text = STAND_IN.replace("case", f"cd {self.folder}\ncase", 1)
            (bin / tool).write_text(text)
            (bin / tool).chmod(0o755)
        self.env = {"PATH": f"{bin}:{os.environ['PATH']}", "POLL": "0"}

    def answer(self, calls: str, *lines: str) -> None:
        (self.folder / calls).write_text("".join(f"{line}\n" for line in lines))

    def run(self, script: str, *flags: str, **variables: str):
        return subprocess.run(
            [LAUNCH / script, *flags],
            env={**self.env, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def calls(self) -> list[list[str]]:
        path = self.folder / "calls"
        text = path.read_text() if path.exists() else ""
        return [call.split("\x1f")[:-1] for call in text.split("\x1e")[:-1]]
