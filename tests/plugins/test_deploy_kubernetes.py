"""``examples/deploy/kubernetes``: valid for Kubernetes, and right for the server as it is."""

import shlex
import shutil
import subprocess
from importlib.metadata import EntryPoints, entry_points
from pathlib import Path
from typing import Any, cast

import kubernetes_validate
import pytest
import yaml

from mlxserve.cli.resolution import resolve
from mlxserve.loading import installed
from mlxserve_hookspecs import EngineStatus
from mlxserve_plugins.health import Health
from mlxserve_plugins.metrics import Metrics

from .scripted import MakeStage

FOLDER = Path(__file__).parents[2] / "examples" / "deploy" / "kubernetes"
VERSIONS = ("1.31", "1.37")
LONGEST_FLUSH_S = 15.0
OPERATOR = "monitoring.coreos.com/"
"""Kinds of the Prometheus operator: Kubernetes has no schema of them."""


def manifests() -> dict[str, dict[str, Any]]:
    """Return every manifest, by kind and name."""
    found = {}
    for path in sorted(FOLDER.glob("*.yaml")):
        for each in yaml.safe_load_all(path.read_text()):
            found[f"{each['kind']} {each['metadata']['name']}"] = each
    return found


ALL = manifests()
PODS = ALL["StatefulSet mlxserve"]["spec"]["template"]
POD = PODS["spec"]
CONTAINER = POD["containers"][0]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ALL)
def test_manifest_is_valid(name: str, version: str) -> None:
    if not ALL[name]["apiVersion"].startswith(OPERATOR):
        kubernetes_validate.validate(ALL[name], version, strict=True)


def test_validator_sees_mistakes() -> None:
    broken = yaml.safe_load(yaml.safe_dump(ALL["HorizontalPodAutoscaler mlxserve"]))
    broken["spec"]["maxReplicaz"] = broken["spec"].pop("maxReplicas")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSIONS[-1], strict=True)


def test_pod_runs_with_its_settings_and_time_to_drain(tmp_path: Path) -> None:
    settings = tmp_path / "settings.toml"
    settings.write_text(ALL["ConfigMap mlxserve"]["data"]["settings.toml"])
    words = CONTAINER["args"]
    assert words[0] == "run"
    assert words[-1] == "/etc/mlxserve/settings.toml"
    variables = {each["name"]: each["value"] for each in CONTAINER["env"]}
    known = installed(cast(EntryPoints, entry_points()))
    resolved, _ = resolve([*words[1:-1], str(settings)], variables, known)
    (port,) = CONTAINER["ports"]
    assert (resolved.server.host, resolved.server.port) == ("0.0.0.0", port["containerPort"])
    paused = float(CONTAINER["lifecycle"]["preStop"]["exec"]["command"][1])
    drained = resolved.server.shutdown_timeout_s + LONGEST_FLUSH_S
    assert POD["terminationGracePeriodSeconds"] >= paused + drained
    mounted = [mount["mountPath"] for mount in CONTAINER["volumeMounts"]]
    for path in (words[-1], variables["MLXSERVE_API_KEY_FILE"]):
        assert str(Path(path).parent) in mounted


def test_volumes_are_those_that_are_mounted() -> None:
    claims = ALL["StatefulSet mlxserve"]["spec"]["volumeClaimTemplates"]
    volumes = {each["name"] for each in POD["volumes"]}
    volumes |= {claim["metadata"]["name"] for claim in claims}
    assert volumes == {mount["name"] for mount in CONTAINER["volumeMounts"]}


def test_probes_ask_what_answers_and_what_is_not_a_reason_to_restart(
    make_stage: MakeStage,
) -> None:
    stage = make_stage(Health())
    stage.service.status = EngineStatus(ready=False)
    kinds = {"startupProbe": 503, "readinessProbe": 503, "livenessProbe": 200}
    for kind, loading in kinds.items():
        probe = CONTAINER[kind]["httpGet"]
        assert probe["port"] == CONTAINER["ports"][0]["name"]
        assert stage.http.get(probe["path"]).status_code == loading


def test_every_selector_finds_pods() -> None:
    labels = [
        each["spec"]["template"]["metadata"]["labels"]
        for each in ALL.values()
        if "template" in each.get("spec", {})
    ]
    services = [each for each in ALL.values() if each["kind"] == "Service"]
    assert len(services) == 3
    for service in services:
        assert service["spec"]["selector"] in labels
    budget = ALL["PodDisruptionBudget mlxserve"]["spec"]["selector"]["matchLabels"]
    assert budget == PODS["metadata"]["labels"]
    assert ALL["StatefulSet mlxserve"]["spec"]["serviceName"] == "mlxserve-replicas"


def test_figures_are_scraped_from_the_replicas() -> None:
    monitor = ALL["ServiceMonitor mlxserve"]["spec"]
    (endpoint,) = monitor["endpoints"]
    wanted = monitor["selector"]["matchLabels"].items()
    found = [
        each
        for each in ALL.values()
        if each["kind"] == "Service" and wanted <= each["metadata"].get("labels", {}).items()
    ]
    assert [each["metadata"]["name"] for each in found] == ["mlxserve-replicas"]
    assert endpoint["port"] in [port["name"] for port in found[0]["spec"]["ports"]]
    annotations = PODS["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(CONTAINER["ports"][0]["containerPort"])
    assert annotations["prometheus.io/path"] == endpoint["path"] == "/metrics"


def test_autoscaler_looks_at_the_queue(make_stage: MakeStage) -> None:
    scaler = ALL["HorizontalPodAutoscaler mlxserve"]["spec"]
    assert f"{scaler['scaleTargetRef']['kind']} {scaler['scaleTargetRef']['name']}" in ALL
    (metric,) = (each["pods"]["metric"]["name"] for each in scaler["metrics"])
    stage = make_stage(Metrics())
    stage.service.status = EngineStatus(ready=True, waiting=7)
    assert f"{metric} 7.0" in stage.http.get("/metrics").text
    assert f"'{metric}{{" in (FOLDER / "autoscaling.yaml").read_text()


def test_haproxy_knows_every_pod_that_there_can_be(tmp_path: Path) -> None:
    made = subprocess.run(
        ["sh", str(FOLDER / "haproxy-config.sh")], capture_output=True, text=True, check=True
    ).stdout
    most = ALL["HorizontalPodAutoscaler mlxserve"]["spec"]["maxReplicas"]
    servers = [shlex.split(line)[2] for line in made.splitlines() if line.startswith("    server ")]
    assert servers == [f"mlxserve-{n}.mlxserve-replicas:8000" for n in range(most)]
    program = shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    if program is None:
        pytest.skip("needs haproxy (Debian: apt-get install haproxy)")
    (tmp_path / "haproxy.cfg").write_text(made)
    subprocess.run([program, "-c", "-f", str(tmp_path / "haproxy.cfg")], check=True)
