"""Values gathered over processes give what one process would have found."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from hirescam.metrics import estimate

METRICS = ("wrong_sign_rate", "pointing_game")
# The shares of the samples are of different lengths.
VALUES, CLASSES = ([0.0, 0.5, 0.25], [1.0]), ([3, 3, 7], [7])

WORK = """
import json, sys
import torch
import torch.distributed as dist
from hirescam.metrics.accumulator import MetricAccumulator

rank, meet, names, values, classes = json.loads(sys.argv[1])
dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=2)
found = {}
for name in names:
    collected = MetricAccumulator(name)
    collected.update(torch.tensor(values).double(), torch.tensor(classes))
    found[name] = [float(collected.compute()), *vars(collected.estimate()).values()]
    assert sum(map(len, collected.values)) == len(values), "a process keeps its own share"
print(json.dumps(found))
dist.destroy_process_group()
"""


@pytest.mark.skipif(not dist.is_available(), reason="this build of torch has no torch.distributed")
def test_two_processes_agree_with_one(tmp_path: Path) -> None:
    started = []
    for rank in range(2):
        words = json.dumps([rank, str(tmp_path / "meet"), METRICS, VALUES[rank], CLASSES[rank]])
        command = [sys.executable, "-c", WORK, words]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    outputs = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0, 0], outputs
    values = torch.tensor([value for share in VALUES for value in share]).double()
    classes = torch.tensor([label for share in CLASSES for label in share])
    for name in METRICS:
        whole = estimate(name, values, classes)
        for printed, _ in outputs:
            assert json.loads(printed)[name] == [whole.value, *vars(whole).values()]
