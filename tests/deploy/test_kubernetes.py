"""The manifests are what Kubernetes understands, and fit the supervisor's times and each other."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any

import kubernetes_validate
import pytest
import yaml
from deployed import DOCKERFILE, MANIFESTS, PROGRAM, time_to_start, time_to_stop

from conductor_supervisor import control
from conductor_supervisor.cautions import unknown_variables
from harness import parse

OLDEST, NEWEST = "1.28", kubernetes_validate.latest_version()

OBJECTS: dict[str, dict[str, Any]] = {
    one["kind"]: one for manifest in MANIFESTS for one in yaml.safe_load_all(manifest.read_text())
}
POD = OBJECTS["Deployment"]["spec"]["template"]["spec"]
(SUPERVISOR,) = POD["containers"]
JOB_POD = OBJECTS["Job"]["spec"]["template"]["spec"]
PROBES = ("startupProbe", "livenessProbe", "readinessProbe")


def variables(container: dict[str, Any]) -> dict[str, str]:
    """Return the variables with a value of their own."""
    return {each["name"]: each["value"] for each in container["env"] if "value" in each}


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("kind", sorted(OBJECTS))
def test_each_object_follows_its_schema(kind: str, version: str) -> None:
    """No field is unknown, and none is of a wrong type."""
    kubernetes_validate.validate(OBJECTS[kind], version, strict=True)


def test_a_pod_has_the_time_that_a_supervisor_takes_to_stop() -> None:
    """Longer than its grace and what follows."""
    grace = variables(SUPERVISOR)["CONDUCTOR_SHUTDOWN_GRACE"]
    assert POD["terminationGracePeriodSeconds"] >= time_to_stop(grace)


def test_a_pod_has_the_time_that_a_supervisor_takes_to_start() -> None:
    """Before anyone asks whether it is alive."""
    probe = SUPERVISOR["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= time_to_start()
    assert OBJECTS["Deployment"]["spec"]["progressDeadlineSeconds"] > time_to_start() + time_to_stop()


@pytest.mark.parametrize("name", PROBES)
def test_probes_run_commands_that_exist_and_wait_for_their_answer(name: str) -> None:
    """Only liveness does without readiness: else a supervisor that drains would be killed."""
    program, *arguments = SUPERVISOR[name]["exec"]["command"]
    assert program == PROGRAM
    parse(arguments)
    assert SUPERVISOR[name]["timeoutSeconds"] > control.ANSWER_TIME
    assert ("--alive" in arguments) == (name == "livenessProbe")


def test_what_the_containers_run_exists() -> None:
    """Commands and variables."""
    (migrate,) = JOB_POD["containers"]
    for container in (SUPERVISOR, migrate):
        parse(container["args"])
        assert unknown_variables({each["name"]: "" for each in container["env"]}) == []
    assert migrate["image"] == SUPERVISOR["image"]


def test_everything_selects_the_pods_of_the_deployment() -> None:
    """And only those: the job's pods are others."""
    labels = OBJECTS["Deployment"]["spec"]["template"]["metadata"]["labels"]
    (spread,) = POD["topologySpreadConstraints"]
    for selector in (
        OBJECTS["Deployment"]["spec"]["selector"],
        OBJECTS["PodDisruptionBudget"]["spec"]["selector"],
        spread["labelSelector"],
    ):
        assert selector == {"matchLabels": labels}
    assert OBJECTS["Job"]["spec"]["template"]["metadata"]["labels"] != labels


def test_the_runtime_folder_is_made_inside_a_volume_in_memory() -> None:
    """A volume is everybody's; a supervisor refuses a folder into which others may look."""
    folder = PurePosixPath(variables(SUPERVISOR)["CONDUCTOR_RUNTIME"])
    (mount,) = (m for m in SUPERVISOR["volumeMounts"] if PurePosixPath(m["mountPath"]) in folder.parents)
    (volume,) = (v for v in POD["volumes"] if v["name"] == mount["name"])
    assert volume["emptyDir"]["medium"] == "Memory"


def test_nobody_runs_with_more_rights_than_it_needs() -> None:
    """As the image's user, by number, so that the cluster can see that it is not root."""
    (user,) = re.findall(r"^USER (\d+):", DOCKERFILE.read_text(), re.MULTILINE)
    for pod in (POD, JOB_POD):
        assert pod["securityContext"]["runAsUser"] == int(user)
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert (pod["automountServiceAccountToken"], pod["enableServiceLinks"]) == (False, False)
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


def test_the_databases_url_is_a_secret() -> None:
    """By reference, in every container."""
    for container in (SUPERVISOR, *JOB_POD["containers"]):
        (url,) = (each for each in container["env"] if each["name"] == "CONDUCTOR_DATABASE_URL")
        assert url["valueFrom"] == {"secretKeyRef": {"name": "shop-database", "key": "url"}}
