"""What is in deploy/ is what docker, compose, Kubernetes, Grafana and systemd accept, as linters see it."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from paths import ROOT
from tools import find_tool

from freshet.config import load_config, parse_config
from freshet.roles.shards.starter import in_shards, torchrun_place
from serving.http.access import parse_tokens

pytestmark = pytest.mark.slow

DEPLOY = ROOT / "deploy"
KUBERNETES = "1.33"
COMPOSE = ["compose.yaml", "compose.kafka.yaml"]
TOOLS = Path(sys.executable).parent
YAMLLINT = (
    "{extends: default, rules: {line-length: {max: 150}, document-start: disable, "
    "braces: {max-spaces-inside: 1}, comments: {min-spaces-from-content: 1}}}"
)


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """What a linter says, which must be content."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def manifests() -> list[dict[str, Any]]:
    files = [DEPLOY / "kubernetes.yaml", DEPLOY / "kubernetes.shards.yaml"]
    return [manifest for file in files for manifest in yaml.safe_load_all(file.read_text())]


def of_kind(kind: str) -> dict[str, dict[str, Any]]:
    return {m["metadata"]["name"]: m for m in manifests() if m["kind"] == kind}


def pods() -> dict[str, dict[str, Any]]:
    """The pod of each workload, by name."""
    workloads = {**of_kind("StatefulSet"), **of_kind("Deployment")}
    return {name: workload["spec"]["template"]["spec"] for name, workload in workloads.items()}


@pytest.mark.process
def test_yaml_is_clean() -> None:
    files = [p for p in DEPLOY.rglob("*") if p.suffix in (".yaml", ".yml")]
    assert len(files) > 6
    run(TOOLS / "yamllint", "--strict", "-d", YAMLLINT, *files)


@pytest.mark.process
def test_dockerfile_has_no_faults_and_runs_as_nobody_in_particular() -> None:
    run(TOOLS / "hadolint", "deploy/Dockerfile")
    text = (DEPLOY / "Dockerfile").read_text()
    assert re.search(r"^USER 10001:10001$", text, re.MULTILINE) and "HEALTHCHECK" in text


@pytest.mark.process
@pytest.mark.parametrize("file", COMPOSE)
def test_compose_file_fits_the_specification(file: str) -> None:
    run(TOOLS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", f"deploy/{file}")
    services = yaml.safe_load((DEPLOY / file).read_text())["services"]
    assert {"join", "learn", "serve", "prometheus", "grafana"} <= set(services)
    mounted = [v.split(":")[0] for s in services.values() for v in s.get("volumes", []) if v.startswith("./")]
    assert mounted and all((DEPLOY / path).exists() for path in mounted)
    tokens = services["serve"]["environment"]["FRESHET_TOKENS"]
    filled = re.sub(r"\$\{FRESHET_TOKENS:[^}]*\}", "shop score+write 0123456789abcdef", tokens)
    filled = re.sub(r"\$\{FRESHET_METRICS_TOKEN:[^}]*\}", "fedcba9876543210", filled)
    assert [caller.name for caller in parse_tokens(filled, file)] == ["shop", "prometheus"]


@pytest.mark.slow
def test_kubernetes_manifests_fit_their_schemas() -> None:
    for manifest in manifests():
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


def test_every_pod_has_probes_and_limits_and_no_more_rights_than_it_needs() -> None:
    assert set(pods()) == {"kafka", "join", "ingest", "learn", "learn-shards", "serve"}
    for name, pod in pods().items():
        for container in pod["containers"]:
            assert "readinessProbe" in container and container["resources"]["limits"]["memory"], name
            if name == "kafka":
                continue
            assert {"startupProbe", "livenessProbe"} <= set(container), name
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            ports = {port["name"] for port in container["ports"]}
            assert {container[p]["httpGet"]["port"] for p in container if p.endswith("Probe")} <= ports
        if name != "kafka":
            assert pod["securityContext"]["runAsNonRoot"] and not pod["automountServiceAccountToken"]


@pytest.mark.slow
def test_roles_have_a_read_only_root_and_room_for_compiled_kernels() -> None:
    for name, pod in pods().items():
        if name == "kafka":
            continue
        (container,) = pod["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"], name
        writable = {m["mountPath"] for m in container["volumeMounts"] if not m.get("readOnly")}
        assert writable == {"/data", "/tmp"}, name
        claims = of_kind("StatefulSet")[name]["spec"]["volumeClaimTemplates"] if name != "serve" else []
        volumes = {v["name"] for v in pod["volumes"]} | {c["metadata"]["name"] for c in claims}
        assert {m["name"] for m in container["volumeMounts"]} <= volumes, name
    for file in COMPOSE:
        services = yaml.safe_load((DEPLOY / file).read_text())["services"]
        for name in ("join", "ingest", "learn", "serve"):
            assert services[name]["read_only"] and services[name]["tmpfs"] == ["/tmp"], (file, name)


def test_every_pod_that_has_a_second_has_a_disruption_budget() -> None:
    budgets = of_kind("PodDisruptionBudget")
    workloads = {**of_kind("StatefulSet"), **of_kind("Deployment")}
    assert set(budgets) == {name for name, w in workloads.items() if w["spec"]["replicas"] > 1}
    for name, budget in budgets.items():
        assert budget["spec"]["selector"]["matchLabels"] == {"app": name}


def test_probes_ask_where_the_config_has_the_roles_answer() -> None:
    config = parse_config(
        tomllib.loads(of_kind("ConfigMap")["freshet"]["data"]["freshet.toml"]), "kubernetes"
    )
    ports = {name: pod["containers"][0]["ports"][0]["containerPort"] for name, pod in pods().items()}
    assert ports["join"] == config.metrics.join_port and ports["learn"] == config.metrics.learn_port
    assert ports["ingest"] == config.metrics.ingest_port and ports["learn-shards"] == ports["learn"]
    assert ports["serve"] == config.server.port


@pytest.mark.process
def test_compose_file_of_shards_tells_every_role() -> None:
    run(TOOLS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", "deploy/compose.shards.yaml")
    services = yaml.safe_load((DEPLOY / "compose.shards.yaml").read_text())["services"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    built = services["learn"]["build"]["args"]["EXTRAS"].split(",")
    assert "torch" in built and set(built) <= set(project["optional-dependencies"])
    for file in ("freshet.toml", "freshet.kafka.toml"):
        for role in ("join", "ingest", "learn", "serve"):
            begin, *more = services[role]["command"]
            overrides = [more[i + 1] for i, word in enumerate(more) if word == "--set"]
            config = load_config(DEPLOY / file, overrides)
            assert begin == role and config.joining.shard_by == "user"
            assert 1 < config.learner.shards.count <= config.joining.partitions


def test_pods_of_shards_have_torchruns_variables() -> None:
    name, learner = "learn-shards", of_kind("StatefulSet")["learn-shards"]
    (container,) = pods()[name]["containers"]
    index = container["env"][0]
    assert index["name"] == "RANK" and "apps.kubernetes.io/pod-index" in str(index["valueFrom"])
    given = {"RANK": "3", **{one["name"]: one["value"] for one in container["env"][1:]}}
    place = torchrun_place(given)
    assert place is not None and place.shards == learner["spec"]["replicas"]
    service = of_kind("Service")[learner["spec"]["serviceName"]]
    assert place.host == f"{name}-0.{service['metadata']['name']}.{learner['metadata']['namespace']}.svc"
    assert service["spec"]["clusterIP"] == "None" and service["spec"]["publishNotReadyAddresses"]
    assert place.port in [port["containerPort"] for port in container["ports"]]
    written = tomllib.loads(of_kind("ConfigMap")["freshet"]["data"]["freshet.toml"])
    config = parse_config(written | {"learner": {"shards": {"count": place.shards}}}, "kubernetes")
    assert in_shards(config, given) == config and config.joining.shard_by == "user"
    assert place.shards <= config.joining.partitions


def test_prometheus_scrapes_the_ports_of_the_compose_configs() -> None:
    scraped = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["scrape_configs"][0]
    for file in ("freshet.toml", "freshet.kafka.toml"):
        config = load_config(DEPLOY / file)
        ports = {
            "serve": config.server.port,
            "join": config.metrics.join_port,
            "learn": config.metrics.learn_port,
        }
        assert set(scraped["static_configs"][0]["targets"]) == {
            f"{role}:{port}" for role, port in ports.items()
        }
    for file in COMPOSE:
        compose = yaml.safe_load((DEPLOY / file).read_text())
        secret = Path(scraped["authorization"]["credentials_file"])
        assert secret.parent == Path("/run/secrets") and secret.name in compose["secrets"]
        assert secret.name in compose["services"]["prometheus"]["secrets"]


def test_grafana_finds_the_dashboard_and_its_source() -> None:
    provisioning = DEPLOY / "grafana" / "provisioning"
    source = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())["datasources"][0]
    folder = yaml.safe_load((provisioning / "dashboards" / "freshet.yaml").read_text())["providers"][0]
    dashboard = json.loads((DEPLOY / "grafana" / "freshet.json").read_text())
    asked = next(v for v in dashboard["templating"]["list"] if v["type"] == "datasource")
    assert source["type"] == asked["query"] == "prometheus" and source["url"] == "http://prometheus:9090"
    for file in COMPOSE:
        grafana = yaml.safe_load((DEPLOY / file).read_text())["services"]["grafana"]
        assert any(f":{folder['options']['path']}/freshet.json:" in volume for volume in grafana["volumes"])


@pytest.mark.process
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    analyze = find_tool("systemd-analyze", "systemd")
    unit = (DEPLOY / "systemd" / "freshet@.service").read_text()
    command = re.search(r"^ExecStart=(\S+) (.*)$", unit, re.MULTILINE)
    assert command is not None and command[2] == "%i --config /etc/freshet/freshet.toml"
    # the command is installed elsewhere here; systemd looks whether it is there
    (tmp_path / "freshet@.service").write_text(unit.replace(command[1], shutil.which("true") or ""))
    shutil.copy(DEPLOY / "systemd" / "freshet.target", tmp_path)
    units = re.search(r"^Wants=(.*)$", (tmp_path / "freshet.target").read_text(), re.MULTILINE)
    assert units is not None and units[1].split() == [
        f"freshet@{r}.service" for r in ("join", "learn", "serve")
    ]
    for name in units[1].split():
        shutil.copy(tmp_path / "freshet@.service", tmp_path / name)
    # gloo asks for the network's interfaces, and ends without that family
    assert re.search(r"^RestrictAddressFamilies=.*\bAF_NETLINK\b", unit, re.MULTILINE)
    (tmp_path / "freshet@learn.service.d").mkdir()
    shutil.copy(DEPLOY / "systemd" / "shard.conf", tmp_path / "freshet@learn.service.d")
    said = run(analyze, "verify", "--man=no", *(tmp_path / n for n in ("freshet.target", *units[1].split())))
    assert "freshet" not in said, said
    shard = (DEPLOY / "systemd" / "shard.conf").read_text()
    given = [line.partition("=")[2].split() for line in shard.splitlines() if line.startswith("Environment=")]
    assert torchrun_place(dict(one.split("=") for line in given for one in line)) is not None
    config = load_config(DEPLOY / "systemd" / "freshet.toml")
    state = re.search(r"^StateDirectory=(\S+)$", unit, re.MULTILINE)
    assert state is not None and config.state.startswith(f"/var/lib/{state[1]}/")
