import copy
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from ray.autoscaler._private.util import prepare_config, validate_config
from ruamel.yaml import YAML

from adacomcat.config.yaml import read_yaml
from study import cli
from study.execution.placement import place
from study.refusals import check_flags
from study.spec.catalog import experiment_names, load_experiment

DOCS = Path(__file__).resolve().parent.parent / "docs"
RAY_UP, RAY_JOB = DOCS / "cluster" / "ray-up.yaml", DOCS / "cluster" / "rayjob.yaml"


def commands(text: str) -> list[list[str]]:
    """The arguments of every `study/run.py` of a text; each ends with its line or its quotes."""
    # As a shell does, and as YAML and Markdown do in comments and code.
    joined = re.sub(r" *\\\n *|\n# +(?=python|--)|\n +(?=--)", " ", text)
    found = re.findall(r"python \S*study/run\.py ([^'\n]*)", joined)
    return [shlex.split(line) for line in found]


def job() -> dict[str, Any]:
    loaded: dict[str, Any] = next(YAML(typ="safe").load_all(RAY_JOB.read_text()))
    return loaded


@pytest.mark.parametrize(
    ("path", "count"),
    [(RAY_UP, 1), (RAY_JOB, 1), (DOCS / "cluster.md", 2)],
    ids=lambda p: str(p)[-12:],
)
def test_the_commands_are_ones_that_the_parser_takes(path: Path, count: int) -> None:
    found = commands(path.read_text())
    assert len(found) == count
    for line in found:
        arguments = cli.parser().parse_args(line)
        check_flags(arguments, ", ".join(experiment_names()))
        load_experiment(arguments.experiment, arguments.workload, None)
        assert arguments.address is not None
        assert arguments.results.parts[-2] == "results"


def test_ray_takes_the_cluster_of_ray_up() -> None:
    config = read_yaml(RAY_UP.read_text())
    validate_config(prepare_config(copy.deepcopy(config)))
    kinds = config["available_node_types"]
    assert config["max_workers"] >= sum(kind.get("min_workers", 0) for kind in kinds.values())
    broken = prepare_config(config) | {"workers": 3}
    with pytest.raises(Exception, match="'workers' was unexpected"):
        validate_config(broken)


def test_the_ray_job_has_the_fields_of_kuberay() -> None:
    # As KubeRay's reference of ray.io/v1 names them.
    document = job()
    assert (document["apiVersion"], document["kind"]) == ("ray.io/v1", "RayJob")
    spec = document["spec"]
    assert set(spec) <= {
        "activeDeadlineSeconds",
        "backoffLimit",
        "rayClusterSpec",
        "submitterPodTemplate",
        "submitterConfig",
        "entrypoint",
        "runtimeEnvYAML",
        "jobId",
        "submissionMode",
        "entrypointNumCpus",
        "ttlSecondsAfterFinished",
        "shutdownAfterJobFinishes",
        "suspend",
    }
    cluster = spec["rayClusterSpec"]
    assert set(cluster) <= {
        "rayVersion",
        "authOptions",
        "headGroupSpec",
        "workerGroupSpecs",
        "enableInTreeAutoscaling",
        "autoscalerOptions",
    }
    assert set(cluster["headGroupSpec"]) == {"rayStartParams", "template"}
    for group in cluster["workerGroupSpecs"]:
        assert set(group) == {
            "groupName",
            "replicas",
            "minReplicas",
            "maxReplicas",
            "rayStartParams",
            "template",
        }
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())


def test_every_pod_of_the_ray_job_mounts_what_the_study_writes() -> None:
    documents = list(YAML(typ="safe").load_all(RAY_JOB.read_text()))
    spec, claim = documents[0]["spec"], documents[1]
    assert claim["kind"] == "PersistentVolumeClaim"
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    (line,) = commands(RAY_JOB.read_text())
    results = cli.parser().parse_args(line).results
    cache = read_yaml(spec["runtimeEnvYAML"])["env_vars"]["ADACOMCAT_CACHE"]
    cluster = spec["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        (container,) = pod["containers"]
        (mount,) = container["volumeMounts"]
        name = volumes[mount["name"]]["persistentVolumeClaim"]["claimName"]
        assert name == claim["metadata"]["name"]
        assert Path(cache).is_relative_to(mount["mountPath"])
        assert results.is_relative_to(mount["mountPath"])
        assert container["image"].endswith(f":{cluster['rayVersion']}")


def test_the_cluster_of_the_ray_job_has_room_for_its_command() -> None:
    cluster = job()["spec"]["rayClusterSpec"]
    nodes = [{"CPU": float(cluster["headGroupSpec"]["rayStartParams"]["num-cpus"])}]
    for group in cluster["workerGroupSpecs"]:
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        node = {"CPU": float(limits["cpu"]), "GPU": float(limits["nvidia.com/gpu"])}
        nodes += [node] * group["minReplicas"]
    (line,) = commands(RAY_JOB.read_text())
    placement = place(cli.request(cli.parser().parse_args(line)), nodes)
    # Two nodes of one GPU, two trials on each.
    assert (placement.gpus, placement.concurrent, placement.cpus) == (0.5, 4, 4.0)


def test_links_lead_somewhere() -> None:
    text = (DOCS / "cluster.md").read_text()
    local = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    assert local
    assert [link for link in local if not (DOCS / link).exists()] == []
    named = re.findall(r"`(tests/\S+?\.py)`", text)
    assert named
    assert [name for name in named if not (DOCS.parent / name).exists()] == []
