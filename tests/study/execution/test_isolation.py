"""A Ray of a study's own: which code its workers see, and who can reach it."""

import ipaddress
import json
from pathlib import Path
from typing import Any

import pytest

from adacomcat.versions import repository

LOOK = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
from study.execution import cluster
cluster.start(dashboard=True)
import psutil, ray

@ray.remote
def look():
    import analysis, study
    return sys.path, [module.__file__ for module in (analysis, study)]

path, files = ray.get(look.remote())
started = [psutil.Process(), *psutil.Process().children(recursive=True)]
listening = [
    connection.laddr.ip
    for process in started
    for connection in process.net_connections("inet")
    if connection.status == psutil.CONN_LISTEN
]
names = [process.name() for process in started]
print(json.dumps({"path": path, "files": files, "listening": listening, "names": names}))
cluster.stop()
"""


@pytest.mark.ray
@pytest.mark.timeout(240)
def test_a_local_ray_runs_our_code_alone_and_listens_to_this_machine_alone(
    script: Any, tmp_path: Path
) -> None:
    for name in ("analysis", "study", "ray", "adacomcat"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('not ours')\n")
    # As a script elsewhere, or Python itself would put the current directory on its path.
    (tmp_path / "elsewhere").mkdir()
    program = tmp_path / "elsewhere" / "look.py"
    program.write_text(LOOK)
    out = script.finish(script.start_python(program, repository(), cwd=tmp_path))
    seen = json.loads(out.splitlines()[-1])
    assert str(tmp_path) not in seen["path"]
    assert [Path(file).parent.parent for file in seen["files"]] == [repository()] * 2
    addresses = [ipaddress.ip_address(text) for text in seen["listening"]]
    mapped = [getattr(address, "ipv4_mapped", None) or address for address in addresses]
    assert {"gcs_server", "raylet", "ray::DashboardAgent"} <= set(seen["names"])
    assert len(mapped) > 5 and all(address.is_loopback for address in mapped)
