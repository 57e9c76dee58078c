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
from serving.http.access import parse_tokens

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
    return list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))


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


def test_kubernetes_manifests_fit_their_schemas() -> None:
    for manifest in manifests():
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


def test_every_pod_has_probes_and_limits_and_no_more_rights_than_it_needs() -> None:
    assert set(pods()) == {"kafka", "join", "learn", "serve"}
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
        for name in ("join", "learn", "serve"):
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
    assert ports["serve"] == config.server.port


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
    said = run(analyze, "verify", "--man=no", *(tmp_path / n for n in ("freshet.target", *units[1].split())))
    assert "freshet" not in said, said
    config = load_config(DEPLOY / "systemd" / "freshet.toml")
    state = re.search(r"^StateDirectory=(\S+)$", unit, re.MULTILINE)
    assert state is not None and config.state.startswith(f"/var/lib/{state[1]}/")
